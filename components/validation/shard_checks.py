"""Read the index and shards of a prepared corpus from disk and count what rules check.

This module reads the layout independently of the package that writes it, so that it does not
repeat its mistakes. The layout: `index.json` with the shards of each split; shards of little-endian
uint16 ids; `documents.parquet` with a row for each kept document, in the order of the shards. A
separator must be at the end of each document; both are streams, compared incrementally.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import ValidationFailedError
from components.core.paths import RelativePath

BYTES_PER_ID = 2
_IDS_PER_READ = 2**20
"""Ids in memory at a time: 2 MB."""
Positions = npt.NDArray[np.int64]
_SHARD_COLUMNS = ["path", "split", "size_bytes", "expected_bytes", "max_id"]


class ShardContent(NamedTuple):
    """Size and largest id of a shard."""

    size_bytes: int
    """-1 if the file does not exist."""
    max_id: int
    """-1 without ids."""


class ShardEntry(BaseModel):
    """A shard in the index. These classes only have the fields that rules need."""

    model_config = ConfigDict(frozen=True)

    path: RelativePath
    num_sequences: int


class SplitEntry(BaseModel):
    """A split in the index."""

    model_config = ConfigDict(frozen=True)

    shards: tuple[ShardEntry, ...]
    num_sequences: int


class ShardIndex(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(frozen=True)

    corpus: str
    context_length: int
    eot_id: int
    num_ids: int
    splits: dict[str, SplitEntry]


def read_index(folder: Path) -> ShardIndex:
    """Read the index of a prepared corpus; raises ValidationFailedError if missing or invalid."""
    path = folder / "index.json"
    try:
        return ShardIndex.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = "does not exist"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(map(str, first["loc"])) or "its start"
        problem = f"is invalid at {location}: {first['msg']}"
    raise unreadable_file(path, problem, f"an index with {', '.join(ShardIndex.model_fields)}")


class SeparatorCheck:
    """Compares the separators of a split with the ends of its documents.

    Call `add_documents` for all documents in order, then `finish`; then the counts and
    `shard_contents` are complete. Positions are counted in ids from the start of the split. In a
    shard that is longer than the index states, separators past that length are not counted.
    """

    def __init__(self, folder: Path, index: ShardIndex, split: str) -> None:
        entry = index.splits[split]
        self.num_packed = entry.num_sequences * index.context_length
        self.num_separators = 0
        self.num_document_ends = 0
        self.num_misplaced_separators = 0
        self.num_tokens = 0
        self.shard_contents: dict[str, ShardContent] = {}
        """By path, once `finish` was called."""
        self._reader = self._read_separators(folder, entry, index)
        self._pending: Positions = np.zeros(0, dtype=np.int64)
        """Separators that were read and not compared yet."""
        self._read_to = 0

    def add_documents(self, num_tokens: Positions) -> None:
        """Compare with the next documents; `num_tokens` [N] below 1 count as no document."""
        lengths = num_tokens[num_tokens > 0]
        ends = self.num_tokens + np.cumsum(lengths) - 1
        self.num_tokens += int(lengths.sum())
        ends = ends[ends < self.num_packed]
        self.num_document_ends += len(ends)
        separators = self._take_separators(self.num_tokens)
        self.num_separators += len(separators)
        self.num_misplaced_separators += len(np.setxor1d(separators, ends, assume_unique=True))

    def finish(self) -> None:
        """Count all separators after the last document as misplaced."""
        num_remaining = len(self._pending) + sum(len(positions) for positions, _ in self._reader)
        self.num_separators += num_remaining
        self.num_misplaced_separators += num_remaining

    def _take_separators(self, stop: int) -> Positions:
        """Return the next separators before the position `stop`."""
        parts = [self._pending]
        while self._read_to < stop:
            chunk = next(self._reader, None)
            if chunk is None:
                break
            positions, self._read_to = chunk
            parts.append(positions)
        positions = np.concatenate(parts)
        num = int(np.searchsorted(positions, stop))
        self._pending = positions[num:]
        return positions[:num]

    def _read_separators(
        self, folder: Path, entry: SplitEntry, index: ShardIndex
    ) -> Iterator[tuple[Positions, int]]:
        """Yield separators in order, and the position up to which they are complete."""
        start = 0
        for shard in entry.shards:
            end = start + shard.num_sequences * index.context_length
            position = start
            max_id = -1
            for ids in _read_ids(folder / shard.path):
                max_id = max(max_id, int(ids.max()))
                separators = np.flatnonzero(ids == index.eot_id) + position
                position += len(ids)
                yield separators[separators < end], min(position, end)
            self.shard_contents[shard.path] = ShardContent(_size_bytes(folder / shard.path), max_id)
            start = end
            yield np.zeros(0, dtype=np.int64), end


def unlisted_shards(folder: Path, index: ShardIndex) -> dict[str, ShardContent]:
    """Return the content of each shard in the folder that is not in the index, by path."""
    listed = {shard.path for split in index.splits.values() for shard in split.shards}
    contents = {}
    for file in sorted(folder.rglob("*.bin")):
        path = file.relative_to(folder).as_posix()
        if path not in listed:
            max_id = max((int(ids.max()) for ids in _read_ids(file)), default=-1)
            contents[path] = ShardContent(_size_bytes(file), max_id)
    return contents


def shards_table(index: ShardIndex, contents: Mapping[str, ShardContent]) -> pd.DataFrame:
    """Return a row for each shard; for a shard that is not in the index, 0 bytes are expected."""
    shards = [
        (split, shard.path, shard.num_sequences)
        for split, entry in index.splits.items()
        for shard in entry.shards
    ]
    listed = {path for _, path, _ in shards}
    shards += [("(none)", path, 0) for path in contents if path not in listed]
    rows = []
    for split, path, num_sequences in shards:
        size_bytes, max_id = contents[path]
        expected_bytes = num_sequences * index.context_length * BYTES_PER_ID
        rows.append((path, split, size_bytes, expected_bytes, max_id))
    return pd.DataFrame(rows, columns=_SHARD_COLUMNS)


def splits_table(
    index: ShardIndex, separators: Mapping[str, SeparatorCheck], num_documents: Mapping[str, int]
) -> pd.DataFrame:
    """Return a row for each split of the index.

    Columns: split; num_sequences by the index, num_shard_sequences by its shards; num_documents;
    num_separators; num_document_ends, those inside the sequences; num_misplaced_separators,
    separators without a document end and document ends without a separator; num_dropped_tokens, the
    tokens of documents that are in no sequence.
    """
    rows = [
        {
            "split": name,
            "num_sequences": split.num_sequences,
            "num_shard_sequences": sum(shard.num_sequences for shard in split.shards),
            "num_documents": num_documents[name],
            "num_separators": separators[name].num_separators,
            "num_document_ends": separators[name].num_document_ends,
            "num_misplaced_separators": separators[name].num_misplaced_separators,
            "num_dropped_tokens": separators[name].num_tokens - separators[name].num_packed,
        }
        for name, split in index.splits.items()
    ]
    return pd.DataFrame(rows)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _read_ids(path: Path) -> Iterator[npt.NDArray[np.uint16]]:
    """Yield the ids of a shard in order, without an incomplete id at its end."""
    if path.is_file():
        with path.open("rb") as file:
            while (ids := np.fromfile(file, dtype="<u2", count=_IDS_PER_READ)).size:
                yield ids


def unreadable_file(path: Path, problem: str, expected: str) -> ValidationFailedError:
    """Return the error for a file of a prepared corpus that cannot be read."""
    return ValidationFailedError(
        f"{path} {problem}",
        expected=expected,
        fix=f"remove {path.parent} and run the same command again to rebuild it",
    )
