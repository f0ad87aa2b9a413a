"""Reading packed shards in training order: mapped, and streamed through a cache that holds the
split or a quarter of it.

    python tests/benchmarks/reader.py

Writes a corpus of 8,192 sequences of 2,048 tokens and streams it from the memory of this process,
so the network is not measured. Prints sequences and tokens per second.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import fsspec
import numpy as np

from components.core.files import write_json
from components.dataset.config import StreamingCacheConfig
from components.dataset.reader import PackedSplit
from components.dataset.shards import (
    INDEX_JSON,
    TOKEN_DTYPE,
    TRAIN,
    Index,
    TokenSlice,
    plan_shards,
    write_shard,
)

CONTEXT = 2048
NUM_SEQUENCES = 8192
SPLIT_BYTES = NUM_SEQUENCES * CONTEXT * 2
BATCH = 32
URI = "memory://benchmark"


def measure(name: str, split: PackedSplit, num_sequences: int) -> None:
    """Read the first sequences of the order in batches and print the rate."""
    started = time.perf_counter()
    for first in range(0, num_sequences, BATCH):
        split.batch(split.shuffled_indices(0, first, BATCH))
    rate = num_sequences / (time.perf_counter() - started)
    print(f"{name:<32} {rate:8,.0f} sequences/s  {rate * CONTEXT:12,.0f} tokens/s")


def main() -> None:
    """Print the rate of each way to read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = folder / "tokens"
        np.zeros(NUM_SEQUENCES * CONTEXT, dtype=TOKEN_DTYPE).tofile(tokens)
        split = plan_shards(TRAIN, NUM_SEQUENCES * CONTEXT, CONTEXT, shard_tokens=2**22)
        first = 0
        for shard in split.shards:
            piece = TokenSlice(str(tokens), first, shard.num_sequences * CONTEXT)
            write_shard(folder / "corpus" / shard.path, [piece])
            first += piece.num_tokens
        splits = {TRAIN: split}
        index = Index(corpus="nl", context_length=CONTEXT, eot_id=0, num_ids=1, splits=splits)
        write_json(folder / "corpus" / INDEX_JSON, index.model_dump(mode="json"))
        fs, root = fsspec.url_to_fs(URI)
        fs.put(f"{folder / 'corpus'}/", f"{root}/", recursive=True)
        measure("mapped", PackedSplit(folder / "corpus"), NUM_SEQUENCES)
        whole = PackedSplit(
            URI,
            streaming=StreamingCacheConfig(
                cache_folder=str(folder / "whole"), cache_bytes=SPLIT_BYTES
            ),
        )
        measure("whole shards, first time", whole, NUM_SEQUENCES)
        measure("whole shards, cached", whole, NUM_SEQUENCES)
        quarter = StreamingCacheConfig(
            cache_folder=str(folder / "ranges"), cache_bytes=SPLIT_BYTES // 4
        )
        measure(
            "ranges of 64 KiB, cache of 1/4",
            PackedSplit(URI, streaming=quarter),
            NUM_SEQUENCES // 8,
        )


if __name__ == "__main__":
    main()
