"""Positions of batches in a partition, for each format, and limited partitions."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.sources import avro, gz, jsonl, parquet, tar, zipped, zstd

from components.data.sources import partition_reader
from components.data.sources.config import Source
from components.data.sources.partition_reader import Batch, read_partition
from components.data.sources.partitions import Partition, list_partitions

_GENERATOR = random.Random(5)  # noqa: S311 - deterministic
ROWS = [
    {
        "text": "".join(_GENERATOR.choices("abcdefgh \n", k=2000)),
        "path": f"{number}.py",
        "repo": "octo/a",
        "license": "mit",
    }
    for number in range(400)
]
"""Rows of equal length and compressibility, so shares of documents and of stored bytes are
equal."""
MEMBERS = {row["path"]: row["text"].encode() for row in ROWS}
SCHEMA = {
    "type": "record",
    "name": "f",
    "fields": [{"name": name, "type": "string"} for name in ROWS[0]],
}

WRITERS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: jsonl(ROWS),
    "a.jsonl.gz": lambda: gz(jsonl(ROWS)),
    "a.jsonl.zst": lambda: zstd(jsonl(ROWS)),
    "a.parquet": lambda: parquet(ROWS, row_group_size=150),
    "a.avro": lambda: avro(ROWS, SCHEMA, codec="deflate"),
    "a.tar": lambda: tar(MEMBERS),
    "a.tar.gz": lambda: gz(tar(MEMBERS)),
    "a.zip": lambda: zipped(MEMBERS),
    "stored.zip": lambda: zipped(MEMBERS, zipfile.ZIP_STORED),
}


def partition_of(path: Path) -> Partition:
    (partition,) = list_partitions([Source(uri=str(path))])
    return partition


def read(partition: Partition) -> list[Batch]:
    return list(read_partition(partition, ["Python"]))


@pytest.fixture(params=[*WRITERS, "folder/"])
def partition(request: pytest.FixtureRequest, tmp_path: Path) -> Partition:
    if request.param in WRITERS:
        (tmp_path / request.param).write_bytes(WRITERS[request.param]())
        return partition_of(tmp_path / request.param)
    (tmp_path / "folder").mkdir()
    for name, content in MEMBERS.items():
        (tmp_path / "folder" / name).write_bytes(content)
    return partition_of(tmp_path / "folder")


def test_stored_bytes_of_a_batch_are_its_position_in_the_file(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "BATCH_BYTES", 80_000)
    batches = read(partition)
    assert len(batches) > 8
    num_documents = 0
    for batch in batches:
        num_documents += len(batch.records)
        assert batch.stored_bytes / partition.size_bytes == pytest.approx(
            num_documents / len(ROWS), abs=0.05
        )
    assert batches[-1].stored_bytes == partition.size_bytes


def test_row_groups_have_their_share_of_the_stored_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "BATCH_BYTES", 80_000)
    (tmp_path / "a.parquet").write_bytes(parquet(ROWS, row_group_size=50))
    size = (tmp_path / "a.parquet").stat().st_size
    partitions = list_partitions([Source(uri=str(tmp_path / "a.parquet"))], split_bytes=size // 5)
    assert [(item.first_row_group, item.last_row_group) for item in partitions] == [
        (0, 1),
        (2, 3),
        (4, 5),
        (6, 7),
    ]
    assert sum(item.size_bytes for item in partitions) == size
    for partition in partitions:
        assert partition.size_bytes == pytest.approx(size / 4, rel=0.01)
        first, *_, last = read(partition)
        assert first.stored_bytes / partition.size_bytes == pytest.approx(
            len(first.records) / 100, abs=0.01
        )
        assert last.stored_bytes == partition.size_bytes


def test_partition_can_be_limited_to_its_first_bytes(partition: Partition) -> None:
    """The documents until 100,000 bytes are reached, which is the 50th at the earliest, and an
    eighth of the whole."""
    (batch,) = read(partition.replace(max_bytes=100_000))
    assert (
        batch.records["text"].to_pylist()
        == read(partition)[0].records["text"].to_pylist()[: len(batch.records)]
    )
    assert 45 <= len(batch.records) <= 50
    assert batch.stored_bytes / partition.size_bytes == pytest.approx(
        len(batch.records) / len(ROWS), abs=0.05
    )


@pytest.fixture
def lines(tmp_path: Path) -> Partition:
    """30 lines of 31 bytes each, without newlines."""
    written = [b'{"text": "%03d", "path": "a.py"}' % number for number in range(30)]
    assert {len(line) for line in written} == {31}
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(written))
    return partition_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [(1, 1), (31, 1), (32, 2), (62, 2), (31 * 29 + 1, 30), (31 * 30, 30), (10**9, 30)],
)
def test_limit_includes_the_record_that_reaches_it(
    lines: Partition, max_bytes: int, expected: int
) -> None:
    (batch,) = read(lines.replace(max_bytes=max_bytes))
    assert len(batch.records) == expected
    assert (batch.stored_bytes == lines.size_bytes) == (expected == 30)


def test_limited_partition_is_read_in_batches(
    lines: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "BATCH_BYTES", 100)
    assert [len(batch.records) for batch in read(lines.replace(max_bytes=310))] == [4, 4, 2]


def test_skipped_records_count_for_the_limit(tmp_path: Path) -> None:
    """Else a sample of a file without documents of the corpus reads the whole file."""
    other = [{**row, "path": "a.go"} for row in ROWS]
    (tmp_path / "a.jsonl").write_bytes(jsonl(other))
    (batch,) = read(partition_of(tmp_path / "a.jsonl").replace(max_bytes=100_000))
    assert len(batch.records) == 0
    assert 40 < batch.num_skipped["language"] <= 50
