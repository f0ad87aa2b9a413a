"""The benchmarks: problems, prompts and protocols of HumanEval, MTPB, MBPP and custom files."""
