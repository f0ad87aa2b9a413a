"""Partitions: files and names of a source, and invalid sources."""

from __future__ import annotations

import json

import fsspec
import pytest
from fixtures.sources import parquet, rows, zstd

from components.core.errors import ConfigError, DataError, FetchError, RecordError
from components.data.sources.config import QuarantineConfig, Source, merge_extensions
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import Partition, list_partitions

ROW = b'{"text": "a", "path": "a.py"}\n'


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """The current folder, with data files in two folders and code files in two others."""
    for name, content in {
        "raw/b.jsonl": ROW,
        "raw/a.jsonl.zst": zstd(ROW),
        "raw/deep/c.jsonl": ROW,
        "raw/NOTICE.txt": b"a notice",
        "repos/one/a.py": b"a\n",
        "repos/one/package.json": b"{}",
        "repos/two/b.py": b"bb\n",
        "repos/c.py": b"ccc\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"uri": "raw/*.jsonl"}, ["jsonl raw/b.jsonl"]),
        ({"uri": "raw/*.jsonl*"}, ["jsonl raw/a.jsonl.zst", "jsonl raw/b.jsonl"]),
        ({"uri": "raw/**/*.jsonl"}, ["jsonl raw/b.jsonl", "jsonl raw/deep/c.jsonl"]),
        ({"uri": "*/*.jsonl"}, ["jsonl raw/b.jsonl"]),
        (
            {"uri": "raw", "format": "jsonl"},
            ["jsonl raw/a.jsonl.zst", "jsonl raw/b.jsonl", "jsonl raw/deep/c.jsonl"],
        ),
        (
            {"uri": "raw/", "format": "jsonl"},
            ["jsonl raw/a.jsonl.zst", "jsonl raw/b.jsonl", "jsonl raw/deep/c.jsonl"],
        ),
        ({"uri": "./raw/b.jsonl"}, ["jsonl ./raw/b.jsonl"]),
        ({"uri": "raw/NOTICE.txt", "format": "jsonl"}, ["jsonl raw/NOTICE.txt"]),
        ({"uri": "repos"}, ["files repos/"]),
        ({"uri": "repos/one/"}, ["files repos/one/"]),
        ({"uri": "repos/*/"}, ["files repos/one/", "files repos/two/"]),
        ({"uri": "raw", "format": "files"}, ["files raw/"]),
        ({"uri": "repos/**/*.py", "format": "files"}, ["files repos/**/*.py"]),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_source_is_listed_as_these_partitions(corpus, source, expected):
    partitions = list_partitions([Source(**source)])
    assert [f"{partition.format} {partition.name}" for partition in partitions] == expected
    assert all(partition.uri.startswith(str(corpus)) for partition in partitions)


def test_sizes_are_stored_bytes(corpus):
    listed = {
        partition.name: partition.size_bytes
        for partition in list_partitions([Source(uri="raw/*.jsonl*"), Source(uri="repos/*/")])
    }
    compressed = (corpus / "raw/a.jsonl.zst").stat().st_size
    assert listed == {
        "raw/a.jsonl.zst": compressed,
        "raw/b.jsonl": len(ROW),
        "repos/one/": 4,
        "repos/two/": 3,
    }


def test_partitions_are_sorted_independently_of_sources(corpus):
    sources = [Source(uri="repos/two"), Source(uri="raw/*.jsonl*"), Source(uri="repos/one")]
    listed = list_partitions(sources)
    assert listed == list_partitions(sources[::-1])
    assert [partition.name for partition in listed] == [
        "raw/a.jsonl.zst",
        "raw/b.jsonl",
        "repos/one/",
        "repos/two/",
    ]


def test_partition_is_plain_json(corpus):
    for partition in list_partitions(
        [Source(uri="raw/*.jsonl", license="license"), Source(uri="repos")]
    ):
        assert Partition.parse(json.loads(json.dumps(partition.model_dump()))) == partition


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({"uri": "absent"}, DataError, "absent holds no file"),
        ({"uri": "raw/*.parquet"}, DataError, r"raw/\*\.parquet holds no file"),
        ({"uri": "repos", "format": "parquet"}, DataError, r"named \*\.parquet"),
        ({"uri": "raw"}, ConfigError, r"the folder raw holds [ab]\.jsonl"),
        ({"uri": "raw/*"}, ConfigError, "raw/NOTICE.txt has an unknown format"),
        ({"uri": "raw/b.jsonl", "format": "archive"}, ConfigError, "is to be read as an archive"),
        ({"uri": "nosuch://bucket/a.jsonl"}, ConfigError, "cannot be opened"),
    ],
    ids=[
        "absent",
        "no match",
        "no file of the format",
        "data in a folder",
        "no format",
        "no archive",
        "no protocol",
    ],
)
def test_source_without_or_with_unexpected_files_raises_an_error(corpus, source, error, message):
    with pytest.raises(error, match=message):
        list_partitions([Source(**source)])


def test_file_in_two_sources_raises_config_error(corpus):
    with pytest.raises(
        ConfigError, match=r"raw/b\.jsonl is in the sources raw/\*\.jsonl and raw/b\.jsonl"
    ):
        list_partitions([Source(uri="raw/*.jsonl"), Source(uri="raw/b.jsonl")])


def test_damaged_parquet_file_cannot_be_split(corpus):
    (corpus / "a.parquet").write_bytes(parquet([{"text": "a", "path": "a.py"}])[:-1])
    with pytest.raises(RecordError, match=r"a\.parquet is damaged or truncated"):
        list_partitions([Source(uri="a.parquet")], split_bytes=1)


def test_file_that_changed_after_listing_raises_record_error(corpus):
    (partition,) = list_partitions([Source(uri="raw/b.jsonl")])
    (corpus / "raw/b.jsonl").write_bytes(ROW * 2)
    with pytest.raises(RecordError, match=r"raw/b\.jsonl has 60 bytes") as error:
        list(read_partition(partition, ["Python"]))
    assert error.value.expected.startswith("30 bytes")


def test_unreadable_file_raises_an_error(corpus):
    (partition,) = list_partitions([Source(uri="raw/b.jsonl")])
    (corpus / "raw/b.jsonl").unlink()
    (corpus / "raw/b.jsonl").mkdir()
    with pytest.raises((FetchError, RecordError), match=r"raw/b\.jsonl"):
        list(read_partition(partition, ["Python"]))


def test_any_fsspec_uri_is_accepted():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/corpus/a.jsonl": ROW, "/corpus/repo/b.py": b"b\n"})
    sources = [Source(uri="memory://corpus/*.jsonl"), Source(uri="memory://corpus/repo")]
    partitions = list_partitions(sources)
    assert [partition.name for partition in partitions] == [
        "memory://corpus/a.jsonl",
        "memory://corpus/repo/",
    ]
    records = [rows(read_partition(partition, ["Python"])) for partition in partitions]
    assert [(row["path"], row["text"]) for (row,) in records] == [("a.py", "a"), ("b.py", "b\n")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"uri": ""}, "uri is ''"),
        ({"uri": "a", "language": "lang", "fixed_language": "Go"}, "exclude each other"),
        ({"uri": "a", "format": "files", "text": "body"}, "no fields that text could name"),
        ({"uri": "a", "format": "csv"}, "format is 'csv'"),
    ],
    ids=["no uri", "two languages", "a field of files", "unknown format"],
)
def test_contradictory_source_raises_config_error(values, message):
    with pytest.raises(ConfigError) as error:
        Source.parse(values)
    assert message in str(error.value)


def test_default_quarantine_limits():
    assert QuarantineConfig() == QuarantineConfig(
        max_record_bytes=64 << 20, max_quarantined_fraction=0.001
    )


@pytest.mark.parametrize("extension", ["py", ".", ".PY", ""])
def test_invalid_extension_raises_config_error(extension):
    with pytest.raises(ConfigError, match="the extension"):
        merge_extensions({extension: "Python"})
