"""From raw corpora to packed corpora: tokenization, deduplication, shuffling, packing, checks and size estimates."""
