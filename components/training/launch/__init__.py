"""Launching the ranks of a training stage, and supervising them."""
