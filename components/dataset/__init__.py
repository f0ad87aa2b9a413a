"""Packed corpora: shards, document tables, and readers for local and remote corpora."""
