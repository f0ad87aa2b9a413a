"""From a raw corpus to packed shards: the artifact that training and evaluation read.

Documents come from `components.data.documents` in training order, already judged. What is left to do is a stream: prefix,
encode, append the separator, cut into sequences. One batch is held at a time, so what limits the size of a corpus is the
sort before it. The other files of the artifact are `index.json` (see `shards`) and two tables (see `tables`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from components.core.errors import ConfigError, DataError
from components.core.files import write_json
from components.core.progress import track
from components.data.config import LANGUAGES, Corpus, DataConfig
from components.data.documents import ordered_documents
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.proof import Proof
from components.tokenizer.shards import INDEX_JSON, TRAIN, Index, SplitWriter, held_out
from components.tokenizer.tables import (
    DOCUMENTS_PARQUET,
    KEPT,
    REJECTED,
    REJECTS_PARQUET,
    document_names,
    language_statistics,
    rows_of_kept,
    rows_of_rejects,
)

CODE_VERSION = 1
"""Raised when the same recipe would give other bytes."""

_PREFIXED_CORPUS = "multi"
"""The corpus whose documents begin with their language (docs/paper.md, section 1)."""
_ENCODED_AT_ONCE = 512
"""Documents per call of the encoder: some 5 MB of text."""


def prepare_corpus(
    folder: Path,
    *,
    raw: Path,
    corpus: Corpus,
    data: DataConfig,
    tokenizer_folder: Path,
    tokenizer: TokenizerConfig,
    context_length: int,
    seed: int,
) -> dict[str, JsonValue]:
    """Fill the folder of a prepared corpus: shards, `index.json`, `documents.parquet`, `rejects.parquet`.

    Args:
        folder: an existing, empty folder.
        raw: the raw corpus, `*.jsonl` files.
        corpus: which corpus it is.
        data: filters, held-out share, prefixes.
        tokenizer_folder: the tokenizer artifact's files.
        tokenizer: what that tokenizer was built from.
        context_length: tokens in a sequence.
        seed: of the order and of the split.

    Returns:
        Statistics: counts per language and per split, and how much was encoded twice to prove the encoder.

    Raises:
        RecordError: a line of the corpus cannot be read, or its language does not belong to the corpus.
        DataError: a language has no document or a split no full sequence; the encoder is not the reference's equal.
        ConfigError: the tokenizer in the folder is not the one described.
    """
    encoder = _encoder(tokenizer_folder, tokenizer)
    splits = [TRAIN, *(held_out(language) for language in LANGUAGES[corpus])]
    writers = {split: SplitWriter(folder, split, context_length) for split in splits}
    prefixes: Mapping[Any, str] = data.language_prefix if corpus == _PREFIXED_CORPUS else {}
    packer = _Packer(encoder, prefixes, writers)
    kept, rejected = [KEPT.empty_table()], [REJECTED.empty_table()]
    with track(f"prepare {corpus}", unit="documents") as advance:
        for batch in _slices(ordered_documents(raw, corpus, data, seed)):
            kept.append(packer.add(batch.filter(pc.is_null(batch["reason"]))))
            rejected.append(rows_of_rejects(batch.filter(pc.is_valid(batch["reason"]))))
            advance(batch.num_rows)
    documents, rejects = pa.concat_tables(kept), pa.concat_tables(rejected)
    _require_documents(raw, corpus, documents, rejects)
    closed = {split: writer.close() for split, writer in writers.items()}
    index = Index(
        corpus=corpus,
        context_length=context_length,
        eot_id=encoder.eot_id,
        num_ids=encoder.num_ids,
        splits={split: written for split, (written, _) in closed.items()},
    )
    _require_sequences(index)
    pq.write_table(documents, folder / DOCUMENTS_PARQUET)
    pq.write_table(rejects, folder / REJECTS_PARQUET)
    write_json(folder / INDEX_JSON, index.model_dump(mode="json"))
    return {
        "languages": language_statistics(LANGUAGES[corpus], documents, rejects),
        "splits": {
            split: {"num_sequences": written.num_sequences, "dropped_tokens": dropped}
            for split, (written, dropped) in closed.items()
        },
        "proved_documents": packer.proof.num_documents,
        "proved_tokens": packer.proof.num_tokens,
    }


def _encoder(folder: Path, config: TokenizerConfig) -> Encoder:
    encoder = Encoder(folder)
    if (encoder.num_ids, encoder.eot_id) != (config.num_ids, config.eot_id):
        raise ConfigError(
            f"the tokenizer in {folder} has {encoder.num_ids:,} ids and ends texts with {encoder.eot_id}",
            expected=f"{config.num_ids:,} ids and {config.eot_id}, for {config.num_merges:,} merges",
            do="prepare with the tokenizer that was built from the same recipe",
        )
    return encoder


def _slices(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ENCODED_AT_ONCE):
            yield batch.slice(start, _ENCODED_AT_ONCE)


class _Packer:
    """Encodes documents and appends each, with its separator, to its split."""

    def __init__(self, encoder: Encoder, prefixes: Mapping[Any, str], writers: Mapping[str, SplitWriter]) -> None:
        self._encoder, self._prefixes, self._writers = encoder, prefixes, writers
        self._separator = np.array([encoder.eot_id], dtype=np.uint16)
        self.proof = Proof(encoder)

    def add(self, batch: pa.RecordBatch) -> pa.Table:
        """Write the next documents. Returns their rows of `documents.parquet`."""
        languages, texts = batch["language"].to_pylist(), batch["text"].to_pylist()
        texts = [self._prefixes.get(language, "") + text for language, text in zip(languages, texts, strict=True)]
        encoded = self._encoder.encode_batch(texts)
        self.proof.check(languages, document_names(batch), texts, encoded)
        kept_out = batch["held_out"].to_pylist()
        splits = [held_out(name) if out else TRAIN for name, out in zip(languages, kept_out, strict=True)]
        for number, split in enumerate(splits):
            self._writers[split].add(encoded[number])
            self._writers[split].add(self._separator)
        return rows_of_kept(batch, splits, encoded.lengths + 1)


def _require_documents(raw: Path, corpus: Corpus, documents: pa.Table, rejects: pa.Table) -> None:
    present = set(documents["language"].unique().to_pylist())
    for language in LANGUAGES[corpus]:
        if language not in present:
            num_rejected = pc.sum(pc.equal(rejects["language"], language)).as_py() or 0
            raise DataError(
                f"{raw} holds no {language} document to learn from ({num_rejected:,} were rejected)",
                expected=f"documents in each of {', '.join(LANGUAGES[corpus])} that pass the filters",
                do="fetch the raw corpora with `codegen data pull`, or loosen the filters of the recipe",
            )


def _require_sequences(index: Index) -> None:
    for name, split in index.splits.items():
        if not split.num_sequences:
            raise DataError(
                f"{name} of the {index.corpus} corpus has too little text for one sequence",
                expected=f"at least {index.context_length:,} tokens in each split",
                do="use more data, a shorter context_length" + ("" if name == TRAIN else " or a larger held_out_fraction"),
            )
