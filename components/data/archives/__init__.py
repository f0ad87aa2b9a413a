"""Pinned archives: the pins, download, extraction of documents, and the pull into `data/`."""
