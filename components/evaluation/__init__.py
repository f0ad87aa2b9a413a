"""Evaluation of checkpoints: HumanEval, MTPB and custom benchmarks, executed in a sandbox, and bits per byte of text."""
