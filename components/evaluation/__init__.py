"""What a model is worth: held-out bits per byte, HumanEval, MTPB, and a page with the results beside the paper's figures."""
