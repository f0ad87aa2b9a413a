"""Tokenizers of every size."""

from fixtures.tokenizer_folders import (
    full,
    full_folder,
    full_transformers,
    ranks,
    small,
    small_folder,
    small_transformers,
)

__all__ = [
    "full",
    "full_folder",
    "full_transformers",
    "ranks",
    "small",
    "small_folder",
    "small_transformers",
]
