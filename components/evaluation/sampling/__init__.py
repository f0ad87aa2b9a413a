"""Generation of samples from a checkpoint: text in, text out, in one process or several."""
