"""Training of one stage: configuration, DeepSpeed ranks, checkpoints, launching and planning."""
