"""Reading raw corpora: every kind of broken line is named by file and line."""

import json
from pathlib import Path

import pytest

from components.core.errors import DataError, RecordError
from components.data.sources.records import FIELDS, read_corpus

GOOD = {
    "language": "Python",
    "license": "MIT",
    "path": "a.py",
    "source": "demo 1.0",
    "text": 'print("ä\u2028\\n")\n',
}


def line(**changes: object) -> bytes:
    return (json.dumps({**GOOD, **changes}, ensure_ascii=False, sort_keys=True) + "\n").encode()


def write(folder: Path, name: str, *lines: bytes) -> None:
    (folder / name).write_bytes(b"".join(lines))


def test_reads_files_by_name_and_lines_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", line(path="3"))
    write(tmp_path, "a.jsonl", line(path="1"), line(path="2").rstrip(b"\n"))
    write(tmp_path, "NOTICE.txt", b"not a corpus file")
    table = read_corpus(tmp_path)
    assert tuple(table.column_names) == FIELDS
    assert table["path"].to_pylist() == ["1", "2", "3"]
    assert table["text"].to_pylist() == [GOOD["text"]] * 3


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"{nonsense\n", "column 2 is not JSON"),
        (b"\n", "is not JSON"),
        (b'["text"]\n', "the record is list"),
        (b'{"text": "x"}\n', "the record is the fields text"),
        (line(stars=3), "stars"),
        (line(text=7), "text is 7"),
        (line(language=None), "language is null"),
        (b"\x7fELF\x00\xff\xfe\n", "byte 5 is not UTF-8"),
        (line(text="MZ\0\0"), "text holds a NUL character at 2"),
        (line(text="#").replace(b'"#"', b'"\\ud800"'), "text holds half a surrogate pair"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: bytes, message: str) -> None:
    write(tmp_path, "demo.jsonl", line(), line(), broken, line())
    with pytest.raises(RecordError, match=message) as error:
        read_corpus(tmp_path)
    assert error.value.got.startswith(f"{tmp_path / 'demo.jsonl'}:3: ")


def test_no_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \*\.jsonl file"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_corpus(tmp_path / "absent")


def test_a_line_that_is_nested_without_end_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", line(), b"[" * 200_000 + b"\n")
    with pytest.raises(RecordError, match=r"(?s)a\.jsonl:2: .*nested too deeply.*fix: "):
        read_corpus(tmp_path)
