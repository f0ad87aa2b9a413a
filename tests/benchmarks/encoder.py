"""Tokenization with gigatoken against Hugging Face tokenizers on the same texts, in alternation,
and a comparison of their ids on `data/`.

    python tests/benchmarks/encoder.py [--runs 5]

Needs `data/` (`codegen data pull`). Prints the median and range of MB/s, and of the ratio run by
run; then how many documents of all corpora differ, which takes a minute for the starter corpus.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.raw_corpora import read_corpus

from components.data.config import PRESET_CORPORA
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.vocabulary import build_tokenizer

NUM_BYTES = 20_000_000
"""Of Python from the mono corpus; half a minute a run."""


def seconds(function: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def count_differences(encoder: Encoder, texts: list[str]) -> int:
    """Count the documents whose ids differ from those of the reference."""
    encoded = encoder.encode_batch(texts)
    return sum(
        encoded[index].tolist() != ids for index, ids in enumerate(encoder.encode_reference(texts))
    )


def main() -> None:
    """Print the rates, their ratio and the number of documents that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    texts, size = [], 0
    for text in read_corpus(Path("data/mono"))["text"].to_pylist():
        if size >= NUM_BYTES:
            break
        texts.append(text)
        size += len(text.encode())
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(Path("data/vocabulary/gpt2.tiktoken"), TokenizerConfig(), Path(folder))
        encoder = Encoder(Path(folder))
        pairs = [
            (
                seconds(lambda: encoder.encode_batch(texts)),
                seconds(lambda: encoder.encode_reference(texts)),
            )
            for _ in range(runs + 1)
        ][1:]  # The first pair warms up.
        corpora = {
            corpus: read_corpus(Path("data") / corpus)["text"].to_pylist()
            for corpus in PRESET_CORPORA
        }
        different = sum(count_differences(encoder, documents) for documents in corpora.values())
    for name, times in zip(("gigatoken", "tokenizers"), zip(*pairs, strict=True), strict=True):
        rates = sorted(size / 1e6 / duration_s for duration_s in times)
        print(
            f"{name:<12} {statistics.median(rates):7.1f} MB/s  ({rates[0]:.1f} .. {rates[-1]:.1f})"
        )
    ratios = sorted(slow / fast for fast, slow in pairs)
    print(
        f"ratio        {statistics.median(ratios):7.1f}       ({ratios[0]:.1f} .. {ratios[-1]:.1f})"
    )
    print(f"{different:,} of {sum(map(len, corpora.values())):,} documents differ")


if __name__ == "__main__":
    main()
