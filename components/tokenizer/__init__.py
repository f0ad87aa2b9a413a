"""CodeGen's tokenizer: building the vocabulary, encoding, and comparing tokenizers."""
