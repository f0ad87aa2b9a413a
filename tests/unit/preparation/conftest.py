"""Tokenizers for small corpora."""

from fixtures.tokenizer_folders import bytes_only, ranks, small, small_folder, small_transformers

__all__ = ["bytes_only", "ranks", "small", "small_folder", "small_transformers"]
