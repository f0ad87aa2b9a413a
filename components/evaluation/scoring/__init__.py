"""From samples to scores: execution of programs, grading, pass@k and confidence intervals."""
