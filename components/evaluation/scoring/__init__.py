"""Execution of generated programs, grading, pass@k and confidence intervals."""
