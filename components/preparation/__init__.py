"""Raw corpora to packed corpora: tokenization, deduplication, shuffling, packing, estimates."""
