"""Evaluation of checkpoints: HumanEval, MTPB, custom benchmarks, and bits per byte."""
