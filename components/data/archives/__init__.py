"""Pinned source archives: fetching, verification and extraction into the raw corpora."""
