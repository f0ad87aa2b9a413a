"""Generation of samples from a checkpoint: text in, text out, in this process or several."""
