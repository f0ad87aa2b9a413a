"""The benchmarks: problems, prompts and protocols of HumanEval, MTPB and custom files."""
