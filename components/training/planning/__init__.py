"""Estimates before training: memory, time, disk and cost per device and parallel layout."""
