"""Filters for code that reject the prose of a corpus stop a run before training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fixtures.prepare_helpers import record, write_raw
from fixtures.tokenizer_folders import bytes_only, ranks

from components.core.corpus_statistics import read_corpus_steps
from components.core.errors import ValidationFailedError
from components.data.config import DataConfig, DataExecution, FilterConfig, MaxDroppedShare
from components.data.sources.config import Source
from components.preparation.corpus_pipeline import prepare_corpus
from components.tokenizer.config import TokenizerConfig
from components.validation.config import ValidationConfig
from components.validation.prepared import validate_prepared

__all__ = ["bytes_only", "ranks"]

WORDS = ("the", "river", "was", "wide", "and", "slow", "under", "a", "bridge", "of", "old", "stone")
PARAGRAPH_BYTES = 600
NUM_UNWRAPPED = 26
NUM_WRAPPED = 14
"""Of 40 documents of equal size, 65 % have one line per paragraph: the share of the tokens that
the filters for code reject of the prose measured in docs/preparation.md."""


def paragraph(rng: random.Random) -> str:
    words: list[str] = []
    while sum(len(word) + 1 for word in words) < PARAGRAPH_BYTES:
        words.append(rng.choice(WORDS))
    return " ".join(words)[: PARAGRAPH_BYTES - 1] + "."


def prose() -> list[str]:
    """Documents of four paragraphs; the last documents are wrapped at spaces."""
    rng = random.Random(5)  # noqa: S311 - not a secret
    texts = ["\n".join(paragraph(rng) for _ in range(4)) for _ in range(NUM_UNWRAPPED)]
    for _ in range(NUM_WRAPPED):
        words = " ".join(paragraph(rng) for _ in range(4)).split()
        rows = [" ".join(words[start : start + 10]) for start in range(0, len(words), 10)]
        texts.append("\n".join(rows))
    return texts


def prepare_nl(root: Path, tokenizer_folder: Path, data: DataConfig) -> dict[str, Any]:
    (root / "nl").mkdir(parents=True)
    records = [record(text, "English", "", "Gutenberg") for text in prose()]
    return prepare_corpus(
        root / "nl",
        sources=[Source(uri=f"{write_raw(root / 'raw', [records])}/*")],
        corpus="nl",
        data=data,
        tokenizer_folder=tokenizer_folder,
        tokenizer=TokenizerConfig(num_merges=0),
        context_length=64,
        seed=1,
        execution=DataExecution(num_workers=1),
    )


def validate(root: Path, data: DataConfig) -> None:
    validate_prepared(
        root / "validation",
        prepared={"nl": root / "nl"},
        config=ValidationConfig(),
        data=data,
        gx_root=root / "gx",
    )


def test_nl_keeps_unwrapped_prose_by_default(bytes_only: Path, tmp_path: Path) -> None:
    data = DataConfig(held_out_fraction=0.25)
    statistics = prepare_nl(tmp_path, bytes_only, data)
    (steps,) = read_corpus_steps(statistics)
    # Without merges, a document has a token per byte, and the separator.
    assert steps.num_tokens == sum(len(text) + 1 for text in prose())
    assert steps.num_train_tokens + steps.num_held_out_tokens == steps.num_tokens
    validate(tmp_path, data)


def test_filters_that_do_not_fit_prose_stop_the_run(bytes_only: Path, tmp_path: Path) -> None:
    data = DataConfig(held_out_fraction=0.25).replace_corpus("nl", filters=FilterConfig())
    (steps,) = read_corpus_steps(prepare_nl(tmp_path, bytes_only, data))
    filtered = steps.step("filtered")
    assert 0.64 < filtered.dropped_share < 0.66
    assert [(row.rule, row.num_documents) for row in filtered.rules] == [
        ("mean line length", NUM_UNWRAPPED)
    ]
    with pytest.raises(ValidationFailedError) as error:
        validate(tmp_path, data)
    (line,) = error.value.got.splitlines()[1:]
    share = f"{filtered.dropped_share:.1%}"
    assert line.strip().startswith(
        "nl: Filters reject at most 25.0% of the text of a language, in bytes: "
        f"observed {share} of English: mean line length {share}, such as Gutenberg/SHA-256 "
    )
    assert line.count("Gutenberg/SHA-256 ") == line.count("' (mean line length)") == 3
    assert "data.corpora.nl.filters" in error.value.fix
    validate(tmp_path, data.replace_corpus("nl", max_dropped_share=MaxDroppedShare(filters=0.7)))
