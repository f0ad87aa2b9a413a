"""Documents in training order: read, judged, shuffled and deduplicated with Daft.

One sort does two jobs. Documents are ordered by a keyed SHA-256 of their content, which is a shuffle that depends neither
on file order nor on partitioning; and it brings equal documents side by side, so a duplicate is a document that equals its
predecessor. The first copy by (source, path) is kept. Whether a document is held out hangs on its content and the seed
alone, so it is never trained on in one corpus and held out of another. Near-duplicates and decontamination are not covered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.core.errors import RecordError
from components.data.config import LANGUAGES, Corpus, DataConfig
from components.data.engine import daft
from components.data.filters import DUPLICATE, reject_reasons
from components.data.records import corpus_files, read_file

DOCUMENT = pa.schema(
    [
        ("language", pa.large_string()),
        ("source", pa.large_string()),
        ("path", pa.large_string()),
        ("text", pa.large_string()),
        ("sha256", pa.large_string()),
        ("held_out", pa.bool_()),
        ("reason", pa.large_string()),
    ]
)
"""What `ordered_documents` yields: `sha256` is of the text's UTF-8 bytes, `reason` is null for what is kept."""

_RECORD = ("language", "source", "path", "text")
_JUDGED_AT_ONCE = 512
"""Documents per call of the filters: some 5 MB of text, so that their work arrays stay small."""


def ordered_documents(folder: Path, corpus: Corpus, config: DataConfig, seed: int) -> Iterator[pa.RecordBatch]:
    """Every document of a raw corpus, in training order, with the reason why it is rejected, if it is.

    Args:
        folder: the raw corpus, `*.jsonl` files.
        corpus: which corpus it is; decides which languages there may be.
        config: the filters and the share that is held out.
        seed: of the order and of the split.

    Raises:
        DataError: there is no corpus in the folder.
        RecordError: a line is not a record, or its language does not belong to the corpus; names file and line.
    """
    batches = _plan(folder, corpus, config, seed).to_arrow_iter()
    return mark_duplicates(batch.select(DOCUMENT.names).cast(DOCUMENT) for batch in batches)


def _plan(folder: Path, corpus: Corpus, config: DataConfig, seed: int) -> daft.DataFrame:
    string, boolean = daft.DataType.string(), daft.DataType.bool()
    record = daft.DataType.struct(dict.fromkeys(_RECORD, string))
    judgement = daft.DataType.struct({"sha256": string, "order": string, "held_out": boolean, "reason": string})

    def read(paths: Any) -> pa.Array:
        (path,) = paths.to_pylist()
        return _read(Path(path), corpus)

    def judge(texts: Any) -> pa.Array:
        return _judge(texts.to_arrow().cast(pa.large_string()), config, seed)

    read_each = daft.func.batch(return_dtype=daft.DataType.list(record), batch_size=1)(read)
    judge_all = daft.func.batch(return_dtype=judgement, batch_size=_JUDGED_AT_ONCE)(judge)
    files = daft.from_pydict({"file": [str(path) for path in corpus_files(folder)]})
    records = files.select(read_each(daft.col("file")).alias("record")).explode("record", ignore_empty_and_null=True)
    documents = records.select(daft.functions.unnest(daft.col("record")))
    judged = documents.with_column("judgement", judge_all(daft.col("text")))
    judged = judged.select(*_RECORD, daft.functions.unnest(daft.col("judgement")))
    return judged.sort(["order", "source", "path"])


def _read(path: Path, corpus: Corpus) -> pa.Array:
    """One file as one list of records."""
    table = read_file(path).combine_chunks()
    known = pc.is_in(table["language"], value_set=pa.array(LANGUAGES[corpus], type=pa.large_string()))
    if (row := pc.index(known, False).as_py()) >= 0:
        raise RecordError(
            f"{path}:{row + 1}: language is {table['language'][row].as_py()!r}",
            expected=f"a language of the {corpus} corpus: {', '.join(LANGUAGES[corpus])}",
            do="fetch the corpus again with `codegen data pull`, or move the record to the corpus it belongs to",
        )
    records = pa.StructArray.from_arrays([_whole(table[name]) for name in _RECORD], names=_RECORD)
    return pa.LargeListArray.from_arrays(pa.array([0, len(records)], type=pa.int64()), records)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], type=column.type)


def _judge(texts: pa.LargeStringArray, config: DataConfig, seed: int) -> pa.StructArray:
    """Identity, place in the order, split and reason of each text."""
    digests = [hashlib.sha256(text.as_buffer()).digest() for text in texts]
    order = [_keyed("order", seed, digest).hex() for digest in digests]
    held_out = [is_held_out(digest, config.held_out_fraction, seed) for digest in digests]
    columns = {
        "sha256": pa.array([digest.hex() for digest in digests], type=pa.large_string()),
        "order": pa.array(order, type=pa.large_string()),
        "held_out": pa.array(held_out, type=pa.bool_()),
        "reason": reject_reasons(texts, config.filters).cast(pa.large_string()),
    }
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns))


def is_held_out(content_sha256: bytes, fraction: float, seed: int) -> bool:
    """Whether a document is kept out of training: true for `fraction` of all contents, whatever corpus they stand in."""
    return int.from_bytes(_keyed("held-out", seed, content_sha256)[:8], "big") < fraction * 2**64


def _keyed(purpose: str, seed: int, content_sha256: bytes) -> bytes:
    return hashlib.sha256(f"{purpose}:{seed}:".encode() + content_sha256).digest()


def mark_duplicates(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Give every document that equals the one before it, be it in another batch, the reason `duplicate`.

    A copy of a rejected document keeps the reason of the filter. Batches without rows are left out.
    """
    previous: str | None = None
    for documents in batches:
        if documents.num_rows:
            yield _mark_in_batch(documents, previous)
            previous = documents["sha256"][-1].as_py()


def _mark_in_batch(documents: pa.RecordBatch, previous: str | None) -> pa.RecordBatch:
    digests = documents["sha256"]
    before = pa.concat_arrays([pa.array([previous], type=digests.type), digests[:-1]])
    is_copy = pc.fill_null(pc.equal(digests, before), False)
    reason = pc.if_else(pc.and_(is_copy, pc.is_null(documents["reason"])), DUPLICATE, documents["reason"])
    return documents.set_column(documents.schema.get_field_index("reason"), DOCUMENT.field("reason"), reason)
