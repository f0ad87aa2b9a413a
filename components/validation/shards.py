"""Read prepared corpora as they lie on the disk, to judge them.

Design decision: this reads the layout by itself and shares no code with the room that writes it, so that a mistake there is
not repeated here. The layout: `index.json` with the shards of each split, shards of little-endian uint16 ids, and
`documents.parquet` with one row for each document that was kept, in the order of the shards. So it is known where each
document ends, and that is where a separator has to stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import ValidationFailed

BYTES_PER_ID = 2
_IDS_PER_READ = 8 * 2**20
"""Ids looked at together: 16 MB, whatever a shard's size."""
_SHARD_COLUMNS = ["split", "path", "size_bytes", "expected_bytes", "max_id"]
_DOCUMENT_COLUMNS = ["sha256", "language", "split", "source", "path", "num_tokens"]


class Content(NamedTuple):
    """What the bytes of a shard say."""

    size_bytes: int
    """-1 where there is no such file."""
    max_id: int
    """-1 where there is no id."""
    separators: npt.NDArray[np.int64]
    """Where the separators stand, counted in ids from the start of the shard."""


class ShardEntry(BaseModel):
    """A shard, as the index lists it. Fields that no rule needs are left out of these classes."""

    model_config = ConfigDict(frozen=True)

    path: str
    num_sequences: int


class SplitEntry(BaseModel):
    """A split, as the index lists it."""

    model_config = ConfigDict(frozen=True)

    shards: tuple[ShardEntry, ...]
    num_sequences: int


class Index(BaseModel):
    """What `index.json` says."""

    model_config = ConfigDict(frozen=True)

    corpus: str
    context_length: int
    eot_id: int
    num_ids: int
    splits: dict[str, SplitEntry]


def read_index(folder: Path) -> Index:
    """The index of a prepared corpus.

    Raises:
        ValidationFailed: there is none, or it cannot be read.
    """
    path = folder / "index.json"
    try:
        return Index.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "does not exist"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"is wrong at {'.'.join(map(str, first['loc'])) or 'its start'}: {first['msg']}"
    raise _unreadable(path, problem, f"an index with {', '.join(Index.model_fields)}")


def read_documents(folder: Path) -> pd.DataFrame:
    """The kept documents, one row each.

    Raises:
        ValidationFailed: the table is absent, no parquet, or lacks a column.
    """
    path = folder / "documents.parquet"
    try:
        return pq.read_table(path, columns=_DOCUMENT_COLUMNS).to_pandas()[_DOCUMENT_COLUMNS]
    except (FileNotFoundError, pa.ArrowInvalid, KeyError) as error:
        raise _unreadable(
            path, f"cannot be read ({error})", f"a table with the columns {', '.join(_DOCUMENT_COLUMNS)}"
        ) from None


def read_shards(folder: Path, index: Index) -> dict[str, Content]:
    """What is in each shard that is listed or lies in the folder, by its path."""
    listed = [shard.path for split in index.splits.values() for shard in split.shards]
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.bin"))
    return {path: _scan(folder / path, index.eot_id) for path in dict.fromkeys([*listed, *found])}


def table_of_shards(index: Index, contents: Mapping[str, Content]) -> pd.DataFrame:
    """One row for each shard that is listed or lies there; one that is not listed should have no bytes."""
    listed = [(name, shard) for name, split in index.splits.items() for shard in split.shards]
    known = {shard.path for _, shard in listed}
    strangers = [("(none)", ShardEntry(path=path, num_sequences=0)) for path in contents if path not in known]
    rows = []
    for split, shard in [*listed, *strangers]:
        size_bytes, max_id, _ = contents[shard.path]
        expected_bytes = shard.num_sequences * index.context_length * BYTES_PER_ID
        rows.append((split, shard.path, size_bytes, expected_bytes, max_id))
    return pd.DataFrame(rows, columns=_SHARD_COLUMNS)


def table_of_splits(index: Index, contents: Mapping[str, Content], documents: pd.DataFrame) -> pd.DataFrame:
    """One row for each split of the index.

    Columns: split; num_sequences and num_shard_sequences, of the index and of its shards together; num_documents;
    num_separators and num_ends, the document ends that lie in the sequences; num_misplaced, the separators that stand at no
    document's end and the ends without one; num_dropped_tokens, those of the documents that are in no sequence.
    """
    return pd.DataFrame([_row_of_split(name, split, index, contents, documents) for name, split in index.splits.items()])


def _row_of_split(
    name: str, split: SplitEntry, index: Index, contents: Mapping[str, Content], documents: pd.DataFrame
) -> dict[str, str | int]:
    shard_sequences = np.array([shard.num_sequences for shard in split.shards], dtype=np.int64)
    starts = (np.cumsum(shard_sequences) - shard_sequences) * index.context_length
    positions = [start + contents[shard.path].separators for start, shard in zip(starts, split.shards, strict=True)]
    separators = np.concatenate([np.zeros(0, dtype=np.int64), *positions])
    num_tokens = documents.loc[documents["split"] == name, "num_tokens"].fillna(0).to_numpy(dtype=np.int64)
    packed = split.num_sequences * index.context_length
    last_ids = np.cumsum(num_tokens) - 1
    ends = last_ids[last_ids < packed]
    return {
        "split": name,
        "num_sequences": split.num_sequences,
        "num_shard_sequences": int(shard_sequences.sum()),
        "num_documents": len(num_tokens),
        "num_separators": len(separators),
        "num_ends": len(ends),
        "num_misplaced": len(np.setxor1d(separators, ends)),
        "num_dropped_tokens": int(num_tokens.sum()) - packed,
    }


def _scan(path: Path, eot_id: int) -> Content:
    if not path.is_file():
        return Content(-1, -1, np.zeros(0, dtype=np.int64))
    max_id, start, separators = -1, 0, [np.zeros(0, dtype=np.int64)]
    with path.open("rb") as file:
        while (ids := np.fromfile(file, dtype="<u2", count=_IDS_PER_READ)).size:
            max_id = max(max_id, int(ids.max()))
            separators.append(np.flatnonzero(ids == eot_id) + start)
            start += len(ids)
    return Content(path.stat().st_size, max_id, np.concatenate(separators))


def _unreadable(path: Path, problem: str, expected: str) -> ValidationFailed:
    return ValidationFailed(
        f"{path} {problem}", expected=expected, do=f"remove {path.parent} and run the same command again: it is rebuilt"
    )
