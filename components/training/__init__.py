"""Training of a stage: configuration, DeepSpeed ranks, checkpoints, launching and planning."""
