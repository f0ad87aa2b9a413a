"""Files as other tools write them: byte order marks, padding, Git LFS, names, deep nesting."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow as pa
import pytest
from fixtures.sources import avro, gz, jsonl, parquet, read, rows, tar, zipped, zstd

from components.core.errors import DataError, FetchError
from components.data.raw_corpus import artifact_from_listing
from components.data.sources.config import Source
from components.data.sources.partition_reader import read_partition
from components.data.sources.partitions import Partition, list_partitions

BOM = b"\xef\xbb\xbf"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)
"""The example of the Git LFS specification."""
DEEP = b"[" * 100_000 + b"]" * 100_000


def texts_of(source):
    return [row["text"] for row in rows(read(source))]


def documents(*texts):
    return jsonl([{"text": text, "path": f"{text}.py"} for text in texts])


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.jsonl", bytes), ("a.json.gz", gz), ("a.ndjson.zst", zstd)],
)
def test_byte_order_mark_of_json_lines_is_ignored(tmp_path, name, pack):
    # Also at the start of a file that was appended to another.
    content = pack(BOM + documents("a", "b")) + pack(BOM + documents("c"))
    (tmp_path / name).write_bytes(content)
    assert texts_of(tmp_path / name) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["p", "a.zip", "a.tar", "a.tar.gz", "a.tar.zst"])
def test_byte_order_mark_of_code_files_is_ignored(tmp_path, name):
    content = BOM + b"x = '\xef\xbb\xbf'\n"
    if name == "p":
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "a.py").write_bytes(content)
    else:
        archive = {"a.zip": zipped, "a.tar": tar}.get(name) or (
            lambda members: (gz if name.endswith(".gz") else zstd)(tar(members))
        )
        (tmp_path / name).write_bytes(archive({"a.py": content}))
    assert texts_of(tmp_path / name) == ["x = '\ufeff'\n"]


@pytest.mark.parametrize("padding", [1, 512, 300_000])
def test_gzip_file_padded_with_zeros_is_read_whole(tmp_path, padding):
    zeros = b"\0" * padding
    (tmp_path / "a.jsonl.gz").write_bytes(gz(documents("a")) + zeros + gz(documents("b")) + zeros)
    (tmp_path / "a.tar.gz").write_bytes(gz(tar({"a.py": b"a\n"})) + zeros)
    assert texts_of(tmp_path / "a.jsonl.gz") == ["a", "b"]
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == documents("a", "b")
    assert texts_of(tmp_path / "a.tar.gz") == ["a\n"]


def test_other_bytes_after_a_gzip_member_are_damage(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gz(documents("a")) + b"\0\0more")
    with pytest.raises(DataError, match="damaged"):
        texts_of(tmp_path / "a.jsonl.gz")


def test_git_lfs_pointers_are_quarantined_as_code(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.py").write_bytes(POINTER)
    (tmp_path / "p" / "b.py").write_bytes(b"# " + POINTER)
    (tmp_path / "a.zip").write_bytes(zipped({"a.py": POINTER, "b.py": b"b\n"}))
    row = {"text": POINTER.decode(), "path": "a.py"}
    (tmp_path / "a.jsonl").write_bytes(jsonl([row, {**row, "text": "b\n"}]))
    (tmp_path / "a.parquet").write_bytes(parquet([row, {**row, "text": "b\n"}]))
    for name in ("p", "a.zip", "a.jsonl", "a.parquet"):
        (batch,) = read(tmp_path / name)
        assert [bad.reason for bad in batch.quarantined] == ["Git LFS pointer"], name
        assert batch.records.num_rows == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.avro", "a.zip", "a.tgz"])
def test_data_file_that_is_a_git_lfs_pointer_names_git_lfs_pull(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(FetchError, match="Git LFS") as error:
        texts_of(tmp_path / name)
    assert "`git lfs pull`" in error.value.fix


def test_map_column_of_parquet_is_read(tmp_path):
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("path", pa.string()),
            ("meta", pa.map_(pa.string(), pa.string())),
            ("nested", pa.struct([("tags", pa.map_(pa.string(), pa.string()))])),
        ]
    )
    table = [
        {
            "text": "a",
            "path": "a.py",
            "meta": [("stars", "3"), ("repo", "octo/ä")],
            "nested": {"tags": [("license", "mit")]},
        },
        {"text": "b", "path": "b.py", "meta": [], "nested": {"tags": None}},
        {"text": "c", "path": "c.py", "meta": None, "nested": None},
    ]
    (tmp_path / "a.parquet").write_bytes(parquet(table, schema))
    source = Source(
        uri=str(tmp_path / "a.parquet"), name="meta.repo", license="nested.tags.license"
    )
    assert [(row["source"], row["license"]) for row in rows(read(source))] == [
        ("octo/ä", "mit"),
        ("", ""),
        ("", ""),
    ]
    text_in_map = Source(uri=source.uri, text="meta.repo")
    batches = list(read(text_in_map))
    assert [row["text"] for batch in batches for row in batch.records.to_pylist()] == ["octo/ä"]


def test_null_inside_a_list_of_licenses_is_ignored(tmp_path):
    table = [
        {"text": "a", "path": "a.py", "license": ["MIT", None, "ISC"]},
        {"text": "b", "path": "b.py", "license": [None]},
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(table))
    (tmp_path / "a.parquet").write_bytes(parquet(table))
    for name in ("a.jsonl", "a.parquet"):
        assert [row["license"] for row in rows(read(tmp_path / name))] == ["MIT, ISC", ""]


NOT_UTF8 = os.fsdecode(b"donn\xe9es")


@pytest.fixture
def latin(tmp_path):
    """A folder whose name, like all names in it, is not UTF-8."""
    folder = tmp_path / NOT_UTF8
    (folder / NOT_UTF8).mkdir(parents=True)
    (folder / f"{NOT_UTF8}.jsonl").write_bytes(documents("a") + b"{\n")
    (folder / f"{NOT_UTF8}.zip").write_bytes(zipped({"a.py": b"b", "b.py": b"\0"}))
    (folder / f"{NOT_UTF8}.parquet").write_bytes(parquet([{"text": "c", "path": "c.py"}]))
    (folder / NOT_UTF8 / f"{NOT_UTF8}.py").write_bytes(b"d")
    (folder / NOT_UTF8 / "bad.py").write_bytes(b"\0")
    return folder


def test_names_that_are_not_utf8_are_read_and_escaped(tmp_path, latin):
    sources = [
        Source(uri=f"{tmp_path}/*/*.jsonl"),
        Source(uri=f"{tmp_path}/*/*.zip"),
        Source(uri=f"{tmp_path}/*/*.parquet"),
        Source(uri=f"{tmp_path}/*/*/"),
    ]
    artifact = artifact_from_listing("mono", sources)
    artifact.model_dump_json().encode("utf-8")
    found = {}
    quarantined = []
    for partition in list_partitions(sources, split_bytes=1):
        # A task reads its partition from JSON.
        document = json.dumps(partition.model_dump(mode="json"), ensure_ascii=False).encode("utf-8")
        for batch in read_partition(Partition.parse(json.loads(document)), ["Python"]):
            batch.records.validate(full=True)
            for row in batch.records.to_pylist():
                found[row["text"]] = (row["path"], row["source"])
            quarantined += [record.file for record in batch.quarantined]
    escaped = "donn\\xe9es"
    assert found == {
        "a": ("a.py", ""),
        "b": ("a.py", f"{escaped}.zip"),
        "c": ("c.py", ""),
        "d": (f"{escaped}.py", escaped),
    }
    folder = f"{tmp_path}/{escaped}"
    assert sorted(quarantined) == [
        f"{folder}/{escaped}.jsonl",
        f"{folder}/{escaped}.zip!b.py",
        f"{folder}/{escaped}/bad.py",
    ]


@pytest.mark.parametrize("name", ["a::b", "[1]", "q?#%41 ä", "new\nline"])
def test_names_with_special_characters_are_read(tmp_path, name):
    (tmp_path / f"{name}.jsonl").write_bytes(documents("a"))
    assert texts_of(tmp_path / "*.jsonl") == ["a"]
    assert texts_of(tmp_path / f"{name}.jsonl") == ["a"]


def test_errors_escape_names_that_are_not_utf8(tmp_path, latin):
    (latin / f"{NOT_UTF8}.jsonl").unlink()
    (latin / f"{NOT_UTF8}.jsonl").symlink_to("absent")
    with pytest.raises(DataError) as error:
        list_partitions([Source(uri=f"{tmp_path}/*/*.jsonl")])
    str(error.value).encode("utf-8")
    assert "donn\\xe9es.jsonl (broken link)" in error.value.got


def test_deep_nesting_is_a_quarantined_record_or_damage(tmp_path):
    line = b'{"text": "a", "path": "a.py", "meta": ' + DEEP + b"}\n"
    (tmp_path / "a.jsonl").write_bytes(line + documents("b"))
    (batch,) = read(tmp_path / "a.jsonl")
    assert [bad.kind for bad in batch.quarantined] == ["not JSON"]
    assert batch.records["text"].to_pylist() == ["b"]

    schema = {
        "type": "record",
        "name": "node",
        "fields": [
            {"name": "text", "type": "string"},
            {"name": "path", "type": "string"},
            {"name": "next", "type": ["null", "node"]},
        ],
    }
    content = avro([], schema)
    node = b"\x02a\x08a.py"
    nodes = (node + b"\x02") * 100_000 + node + b"\x00"
    sync = b"0123456789abcdef"
    (tmp_path / "a.avro").write_bytes(content + zigzag(1) + zigzag(len(nodes)) + nodes + sync)
    with pytest.raises(DataError, match=r"a\.avro is damaged"):
        texts_of(tmp_path / "a.avro")


def zigzag(number):
    """An Avro long."""
    value = number << 1
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])
