"""Checkpoints within a training stage: writing, verification, retention, optimizer state."""
