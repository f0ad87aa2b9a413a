"""CodeGen's vocabulary, the encoder, and packed token shards: both their writer and their reader.

`vocabulary` builds the tokenizer, `encoder` applies it, `prepare` turns a raw corpus into shards (`shards` writes them),
`reader` gives the sequences back in training order, from this machine or (`streaming`) from elsewhere. `prefetch` makes
batches ahead of their steps, `masking` tells documents apart.
"""
