"""Bytes per token of each language of the starter corpus, by the number of merges: the table of
docs/figures.md.

    python tests/benchmarks/bytes_per_token.py [--merges 50000 2000]

Needs `data/` (`codegen data pull`). Counts every document before filters, without prefixes and
separators, so the figures depend only on the bytes of `data/` and the vocabulary. Prints the rows
of a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.raw_corpora import read_corpus

from components.data.config import PRESET_CORPORA, DataConfig
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.vocabulary import build_tokenizer

LANGUAGES = {name: corpus.languages for name, corpus in DataConfig().corpora.items()}

MERGES = (50_000, 16_000, 8_000, 4_000, 2_000, 1_000)


def texts_by_language() -> dict[str, list[str]]:
    """Return every document by language and corpus."""
    texts: dict[str, list[str]] = {
        f"{language} ({corpus})": [] for corpus in PRESET_CORPORA for language in LANGUAGES[corpus]
    }
    for corpus in PRESET_CORPORA:
        records = read_corpus(Path("data") / corpus)
        for language, text in zip(
            records["language"].to_pylist(), records["text"].to_pylist(), strict=True
        ):
            texts[f"{language} ({corpus})"].append(text)
    return texts


def bytes_per_token(num_merges: int, texts: dict[str, list[str]]) -> tuple[int, list[float]]:
    """Return the number of ids of the tokenizer and the bytes per token of each group of texts."""
    config = TokenizerConfig(num_merges=num_merges)
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(Path("data/vocabulary/gpt2.tiktoken"), config, Path(folder))
        encoder = Encoder(Path(folder))
        return config.num_ids, [
            sum(len(text.encode()) for text in group) / len(encoder.encode_batch(group).ids)
            for group in texts.values()
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--merges", type=int, nargs="+", default=MERGES)
    texts = texts_by_language()
    print(f"| merges | ids | {' | '.join(texts)} |\n|{'---|' * (len(texts) + 2)}")
    for num_merges in parser.parse_args().merges:
        num_ids, ratios = bytes_per_token(num_merges, texts)
        print(
            f"| {num_merges:,} | {num_ids:,} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
