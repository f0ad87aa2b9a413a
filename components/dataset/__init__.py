"""Packed corpora: shards, their manifests, rejected documents, and the readers that training and evaluation use."""
