"""Completions of a model: samplers, worker processes, truncation and sample files."""
