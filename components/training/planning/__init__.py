"""Estimates before training: memory, time, disk and cost by device and parallel layout."""
