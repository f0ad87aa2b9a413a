"""Checkpoints within a training stage: writing, verification, retention and optimizer state."""
