"""JSON Lines: documented sources, bad lines, and lines of any length and content."""

from __future__ import annotations

import json
import tracemalloc

import pytest
import zstandard
from fixtures.sources import gz, jsonl, parquet, read, rows, zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import ConfigError, RecordError
from components.data.sources.config import Source
from components.data.sources.jsonl import read_lines
from components.data.sources.records import QUARANTINE_REASONS, WELL_KNOWN

GOOD = {"content": "a = 1\n", "path": "src/a.py", "repo": "octo/a", "license": "mit"}
RECORD = {
    "language": "Python",
    "license": "mit",
    "path": "src/a.py",
    "source": "octo/a",
    "text": "a = 1\n",
}


def test_pile_records_are_read_with_a_nested_name_and_fixed_language(tmp_path):
    pile = [
        {"text": "It was\na night.", "meta": {"pile_set_name": "Gutenberg (PG-19)"}},
        {"text": "ä", "meta": None},
    ]
    (tmp_path / "00.jsonl.zst").write_bytes(zstd(jsonl(pile), checksum=False))
    source = Source(
        uri=str(tmp_path / "*.jsonl.zst"), name="meta.pile_set_name", fixed_language="English"
    )
    common = {"language": "English", "license": "", "path": ""}
    assert rows(read(source, ["English"])) == [
        {**common, "source": "Gutenberg (PG-19)", "text": "It was\na night."},
        {**common, "source": "", "text": "ä"},
    ]


def test_bigquery_exports_and_pulled_corpora_need_no_field_names(tmp_path):
    bigquery = {
        "repo_name": "octo/a",
        "path": "src/a.py",
        "license": "mit",
        "content": "a = 1\n",
        "size": "6",
    }
    (tmp_path / "000.json.gz").write_bytes(gz(jsonl([bigquery])))
    (tmp_path / "own.jsonl").write_bytes(jsonl([RECORD]))
    assert rows(read(tmp_path / "*.json*")) == [RECORD, RECORD]


def test_objects_without_a_named_field_raise_an_error_with_all_fields(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b"\n" + jsonl([{"text": "a", "meta": {"url": "x"}}, {"text": "b", "id": 3}])
    )
    source = Source(
        uri=str(tmp_path / "a.jsonl"),
        text="body",
        name="meta.pile_set_name",
        license="license",
        fixed_language="English",
    )
    with pytest.raises(ConfigError) as error:
        list(read(source, ["English"]))
    assert error.value.got.endswith(
        "has the columns text, meta.url, id, and none for text and source"
    )
    assert error.value.expected == (
        "the columns body for text, license for license, meta.pile_set_name for source"
    )
    assert "`text` and `name`" in error.value.fix


def test_a_named_field_may_be_absent_from_some_objects(tmp_path):
    input_rows = [{"body": "a"}] * 99 + [{"body": "b", "meta": {"name": None}}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(input_rows))
    source = Source(
        uri=str(tmp_path / "a.jsonl"), text="body", name="meta.name", fixed_language="English"
    )
    assert len(rows(read(source, ["English"]))) == 100


def test_a_record_without_text_can_be_skipped(tmp_path):
    input_rows = [GOOD, {**GOOD, "content": None}, {"path": "b.py"}, {"path": "b.md"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(input_rows))
    (tmp_path / "b.parquet").write_bytes(parquet(input_rows[:2]))
    for name, num_skipped in (
        ("a.jsonl", {"null text": 2, "language": 1}),
        ("b.parquet", {"null text": 1}),
    ):
        (batch,) = read(Source(uri=str(tmp_path / name), skip_null_text=True))
        assert (batch.records.num_rows, batch.quarantined) == (1, [])
        assert batch.num_skipped == num_skipped


def test_language_is_stated_or_derived_from_the_extension(tmp_path):
    input_rows = [
        {"text": "1", "path": "a.h", "language": "c++"},
        {"text": "2", "path": "A.PY"},
        {"text": "3", "path": "a.rs"},
        {"text": "4", "path": "a.py", "language": "Rust"},
        {"text": "5", "path": "Makefile"},
        {"text": "6", "path": ".py"},
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(input_rows))
    (batch,) = read(tmp_path / "a.jsonl")
    assert batch.records["text"].to_pylist() == ["1", "2"]
    assert batch.records["language"].to_pylist() == ["C++", "Python"]
    assert (batch.quarantined, batch.num_skipped) == ([], {"language": 4})


@pytest.mark.parametrize("field", WELL_KNOWN["license"])
def test_license_is_read_under_each_default_name(tmp_path, field):
    row = {name: value for name, value in GOOD.items() if name != "license"}
    (tmp_path / "a.jsonl").write_bytes(jsonl([{**row, field: "mit"}]))
    assert rows(read(tmp_path / "a.jsonl")) == [RECORD]


def test_fixed_language_of_another_corpus_raises_config_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([GOOD]))
    with pytest.raises(ConfigError, match="is all Rust"):
        list(read(Source(uri=str(tmp_path / "a.jsonl"), fixed_language="Rust")))


def test_list_of_licenses_is_joined(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        jsonl([{**GOOD, "license": ["MIT", "Apache-2.0"]}, {**GOOD, "license": []}])
    )
    assert [row["license"] for row in rows(read(tmp_path / "a.jsonl"))] == ["MIT, Apache-2.0", ""]


def line(**changes):
    return json.dumps({**GOOD, **changes}).encode()


BAD_LINES = {
    "half a line": (b'{"content": "a', "not JSON: "),
    "an array": (b'["a"]', "not an object: list"),
    "a number": (b"7", "not an object: int"),
    "no text": (b'{"path": "a.py"}', "no text: "),
    "a null text": (line(content=None), "no text: "),
    "a text of another type": (line(content=7), "wrong type: text is int"),
    "a path of another type": (line(path=["a"]), "wrong type: path is list"),
    "a license of another type": (line(license=["MIT", 7]), "wrong type: license is int"),
    "neither language nor path": (b'{"content": "a"}', "no language: "),
    "latin 1": (
        line(content="@").replace(b"@", b"\xe4"),
        "not UTF-8: invalid continuation byte at byte 13",
    ),
    "binary": (b"\x7fELF\x02\x01\xff\xfe", "not UTF-8: invalid start byte at byte 6"),
    "half a pair, escaped": (
        line(content="@").replace(b"@", b"\\ud800"),
        "half a surrogate pair: ",
    ),
    "half a pair, as bytes": (line(content="@").replace(b"@", b"\xed\xa0\x80"), "not UTF-8: "),
    "NUL": (line(content="ab\0"), "NUL character: at character 2 of text"),
    "NUL in the path": (line(path="a\0.py"), "NUL character: at character 1 of path"),
    "a raw NUL": (b'{"content": "a\0b"}', "not JSON: "),
    "too deep": (b"[" * 5000, "not JSON: "),
    "NaN": (b'{"content": "a", "path": "a.py", "score": NaN}', "not JSON: "),
    "too long": (line(content="x" * 9000), "too long: a line of 9071 bytes"),
}


@pytest.mark.parametrize(("bad_line", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_bad_line_is_quarantined_with_its_position_and_others_are_read(
    tmp_path, ending, bad_line, reason
):
    pack = {"jsonl": bytes, "jsonl.gz": gz, "jsonl.zst": zstd}[ending]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(pack(line() + b"\n" + bad_line + b"\n" + line()))
    (batch,) = read(path, max_record_bytes=8000)
    (bad,) = batch.quarantined
    assert batch.records.to_pylist() == [RECORD, RECORD]
    assert (bad.file, bad.offset) == (str(path), len(line()) + 1)
    assert bad.reason.startswith(reason)
    assert bad.reason.partition(":")[0] in QUARANTINE_REASONS
    assert len(bad.excerpt) <= 200
    assert bad.excerpt.isprintable()
    assert bad.excerpt[:1] == bad_line[:1].decode("ascii").replace("\x7f", "\\")


def test_lines_end_only_at_newlines_and_blank_lines_are_counted(tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be"
    content = (
        line(content="1") + b"\r\n\r\n  \t\n\n" + jsonl([{**GOOD, "content": text}]).rstrip(b"\n")
    )
    (tmp_path / "a.jsonl").write_bytes(content)
    (batch,) = read(tmp_path / "a.jsonl")
    assert batch.records["text"].to_pylist() == ["1", text]
    assert (batch.quarantined, batch.num_skipped) == ([], {"blank line": 3})


@pytest.mark.parametrize(
    ("content", "skipped"),
    [(b"", []), (b"\n\n\n", [{"blank line": 3}])],
    ids=["nothing", "newlines"],
)
def test_file_without_records_has_no_records(tmp_path, content, skipped):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert [batch.num_skipped for batch in read(tmp_path / "a.jsonl")] == skipped


class Trickle:
    """A stream that returns a few bytes at a time, as object stores do."""

    def __init__(self, content, num_bytes):
        self.content, self.num_bytes = content, num_bytes

    def read(self, _num_bytes):
        block, self.content = self.content[: self.num_bytes], self.content[self.num_bytes :]
        return block


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8),
    ends=st.booleans(),
    num_bytes=st.integers(1, 9),
    limit=st.integers(1, 14),
)
def test_lines_equal_those_of_a_split_of_the_content(lines, ends, num_bytes, limit):
    content = b"\n".join(lines) + (b"\n" if ends else b"")
    read_back = list(read_lines(Trickle(content, num_bytes), limit))
    expected = content.split(b"\n")
    expected = expected[:-1] if not expected[-1] else expected
    assert [line.size_bytes for line in read_back] == [len(line) for line in expected]
    ranges = [(line.offset, line.offset + line.size_bytes) for line in read_back]
    assert [content[start:end] for start, end in ranges] == expected
    assert [line.content for line in read_back] == [line[:limit] for line in expected]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
        max_size=12,
    )
)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_any_text_is_read_unchanged(tmp_path_factory, ending, texts):
    pack = {"jsonl": bytes, "jsonl.gz": gz, "jsonl.zst": zstd}[ending]
    path = tmp_path_factory.mktemp("any") / f"a.{ending}"
    path.write_bytes(pack(jsonl([{**GOOD, "content": text} for text in texts])))
    assert [row["text"] for row in rows(read(path))] == texts


@settings(max_examples=60, deadline=None)
@given(
    noise=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=12)
)
def test_each_line_of_noise_is_counted(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in noise))
    batches = list(read(path))
    num_quarantined = sum(len(batch.quarantined) for batch in batches)
    assert num_quarantined + sum(sum(batch.num_skipped.values()) for batch in batches) == len(noise)
    for batch in batches:
        for bad in batch.quarantined:
            assert path.read_bytes()[bad.offset - 1 : bad.offset] in (b"", b"\n")


def test_gzip_members_and_zstd_frames_are_concatenated(tmp_path):
    halves = jsonl([GOOD] * 3), jsonl([GOOD] * 4)
    (tmp_path / "a.jsonl.gz").write_bytes(gz(halves[0]) + gz(b"") + gz(halves[1]))
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    (tmp_path / "a.jsonl.zst").write_bytes(
        zstd(halves[0]) + skippable + zstd(b"") + zstd(halves[1])
    )
    assert rows(read(tmp_path / "a.jsonl.gz")) == [RECORD] * 7
    assert rows(read(tmp_path / "a.jsonl.zst")) == [RECORD] * 7


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_empty_compressed_file_is_truncated(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(RecordError, match=rf"{name} is damaged or truncated: 0 bytes"):
        list(read(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl.gz", gz), ("a.jsonl.zst", zstd)], ids=["gzip", "zstd"]
)
def test_each_truncation_of_a_compressed_file_raises_an_error(tmp_path, name, pack):
    content = pack(jsonl([GOOD] * 3))
    for length in range(len(content)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(RecordError, match=f"{name} is damaged or truncated"):
            list(read(tmp_path / name))


def test_line_of_two_gigabytes_is_quarantined_without_loading_it(tmp_path):
    with (
        (tmp_path / "a.jsonl.zst").open("wb") as file,
        zstandard.ZstdCompressor(level=1).stream_writer(file) as stream,
    ):
        stream.write(line() + b'\n{"content": "')
        for _ in range(2048):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n' + line() + b"\n")
    tracemalloc.start()
    try:
        (batch,) = read(tmp_path / "a.jsonl.zst")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch.records.to_pylist() == [RECORD, RECORD]
    assert [bad.reason for bad in batch.quarantined] == [
        f"too long: a line of {(2 << 30) + 15} bytes"
    ]
    assert peak_bytes < 64 << 20


def test_batches_have_bounded_size_and_file_order(tmp_path):
    texts = [f"{number}\n" + "x" * 999_000 for number in range(30)]
    (tmp_path / "a.jsonl").write_bytes(jsonl([{**GOOD, "content": text} for text in texts]))
    batches = list(read(tmp_path / "a.jsonl"))
    assert [batch.records.num_rows for batch in batches] == [9, 9, 9, 3]
    assert [text for batch in batches for text in batch.records["text"].to_pylist()] == texts


def test_file_of_only_bad_lines_is_read_in_batches(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 2500)
    assert [len(batch.quarantined) for batch in read(tmp_path / "a.jsonl")] == [1000, 1000, 500]
