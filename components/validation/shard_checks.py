"""Read prepared corpora as they lie on the disk, to judge them.

Design decision: this reads the layout by itself and shares no code with the room that writes it, so that a mistake there is
not repeated here. The layout: `index.json` with the shards of each split, shards of little-endian uint16 ids, and
`documents.parquet` with one row for each document that was kept, in the order of the shards. So it is known where each
document ends, and that is where a separator has to stand. Both are streams in the same order, and they are compared as they
meet: memory holds `_IDS_PER_READ` ids of each split, whatever the sizes.
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

BYTES_PER_ID = 2
_IDS_PER_READ = 2**20
"""Ids looked at together: 2 MB, whatever a shard's size."""
Positions = npt.NDArray[np.int64]
_SHARD_COLUMNS = ["split", "path", "size_bytes", "expected_bytes", "max_id"]


class Content(NamedTuple):
    """What the bytes of a shard say, besides their separators."""

    size_bytes: int
    """-1 where there is no such file."""
    max_id: int
    """-1 where there is no id."""


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
    raise unreadable(path, problem, f"an index with {', '.join(Index.model_fields)}")


class Separators:
    """The separators of one split beside the ends of its documents, both counted in ids from the split's start.

    `meet` the documents as they come, in order, then `finish`: the counts are then those of the whole split, and `contents`
    tells of its shards. In a shard that is longer than the index says, separators beyond that length are not counted.
    """

    def __init__(self, folder: Path, index: Index, split: str) -> None:
        entry = index.splits[split]
        self.num_packed = entry.num_sequences * index.context_length
        self.num_separators = self.num_ends = self.num_misplaced = self.num_tokens = 0
        self.contents: dict[str, Content] = {}
        """By the shard's path, once `finish` was called."""
        self._arriving = self._read(folder, entry, index)
        self._waiting: Positions = np.zeros(0, dtype=np.int64)
        self._read_to = 0

    def meet(self, num_tokens: Positions) -> None:
        """Compare with the next documents, of so many tokens each, [N]; of fewer than one counts as none."""
        lengths = num_tokens[num_tokens > 0]
        ends = self.num_tokens + np.cumsum(lengths) - 1
        self.num_tokens += int(lengths.sum())
        ends = ends[ends < self.num_packed]
        self.num_ends += len(ends)
        separators = self._before(self.num_tokens)
        self.num_separators += len(separators)
        self.num_misplaced += len(np.setxor1d(separators, ends, assume_unique=True))

    def finish(self) -> None:
        """What stands beyond the last document stands in the wrong place."""
        rest = len(self._waiting) + sum(len(part) for part, _ in self._arriving)
        self.num_separators += rest
        self.num_misplaced += rest

    def _before(self, position: int) -> Positions:
        """Take the separators that stand before a position."""
        parts = [self._waiting]
        while self._read_to < position and (arrived := next(self._arriving, None)):
            part, self._read_to = arrived
            parts.append(part)
        waiting = np.concatenate(parts)
        num = int(np.searchsorted(waiting, position))
        self._waiting = waiting[num:]
        return waiting[:num]

    def _read(
        self, folder: Path, entry: SplitEntry, index: Index
    ) -> Iterator[tuple[Positions, int]]:
        """Separators, in order, and up to where they are all."""
        start = 0
        for shard in entry.shards:
            end, position, max_id = start + shard.num_sequences * index.context_length, start, -1
            for ids in _ids(folder / shard.path):
                max_id = max(max_id, int(ids.max()))
                found = np.flatnonzero(ids == index.eot_id) + position
                position += len(ids)
                yield found[found < end], min(position, end)
            self.contents[shard.path] = Content(_size_bytes(folder / shard.path), max_id)
            start = end
            yield np.zeros(0, dtype=np.int64), end


def unlisted_shards(folder: Path, index: Index) -> dict[str, Content]:
    """What is in each shard that lies in the folder and is not in the index, by its path."""
    listed = {shard.path for split in index.splits.values() for shard in split.shards}
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.bin"))
    return {path: _content(folder / path) for path in found if path not in listed}


def table_of_shards(index: Index, contents: Mapping[str, Content]) -> pd.DataFrame:
    """One row for each shard that is listed or lies there; one that is not listed should have no bytes."""
    listed = [(name, shard) for name, split in index.splits.items() for shard in split.shards]
    known = {shard.path for _, shard in listed}
    strangers = [
        ("(none)", ShardEntry(path=path, num_sequences=0)) for path in contents if path not in known
    ]
    rows = []
    for split, shard in [*listed, *strangers]:
        size_bytes, max_id = contents[shard.path]
        expected_bytes = shard.num_sequences * index.context_length * BYTES_PER_ID
        rows.append((split, shard.path, size_bytes, expected_bytes, max_id))
    return pd.DataFrame(rows, columns=_SHARD_COLUMNS)


def table_of_splits(
    index: Index, separators: Mapping[str, Separators], num_documents: Mapping[str, int]
) -> pd.DataFrame:
    """One row for each split of the index.

    Columns: split; num_sequences and num_shard_sequences, of the index and of its shards together; num_documents;
    num_separators and num_ends, the document ends that lie in the sequences; num_misplaced, the separators that stand at no
    document's end and the ends without one; num_dropped_tokens, those of the documents that are in no sequence.
    """
    rows = [
        {
            "split": name,
            "num_sequences": split.num_sequences,
            "num_shard_sequences": sum(shard.num_sequences for shard in split.shards),
            "num_documents": num_documents[name],
            "num_separators": separators[name].num_separators,
            "num_ends": separators[name].num_ends,
            "num_misplaced": separators[name].num_misplaced,
            "num_dropped_tokens": separators[name].num_tokens - separators[name].num_packed,
        }
        for name, split in index.splits.items()
    ]
    return pd.DataFrame(rows)


def _content(path: Path) -> Content:
    return Content(_size_bytes(path), max((int(ids.max()) for ids in _ids(path)), default=-1))


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _ids(path: Path) -> Iterator[npt.NDArray[np.uint16]]:
    """The ids of a shard, in order; none where there is no such file. Half an id at the end is left out."""
    if path.is_file():
        with path.open("rb") as file:
            while (ids := np.fromfile(file, dtype="<u2", count=_IDS_PER_READ)).size:
                yield ids


def unreadable(path: Path, problem: str, expected: str) -> ValidationFailedError:
    """The error for a file of a prepared corpus that cannot be judged at all."""
    return ValidationFailedError(
        f"{path} {problem}",
        expected=expected,
        fix=f"remove {path.parent} and run the same command again: it is rebuilt",
    )
