"""Strict reading of pulled corpora: a bad line is reported with file and line."""

import json
from pathlib import Path

import pytest
from fixtures.raw_corpora import read_corpus

from components.core.errors import DataError, RecordError
from components.data.sources.records import FIELDS

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


def test_files_are_read_by_name_and_lines_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", line(path="3"))
    write(tmp_path, "a.jsonl", line(path="1"), line(path="2").rstrip(b"\n"))
    write(tmp_path, "NOTICE.txt", b"not a corpus file")
    table = read_corpus(tmp_path)
    assert tuple(table.column_names) == FIELDS
    assert table["path"].to_pylist() == ["1", "2", "3"]
    assert table["text"].to_pylist() == [GOOD["text"]] * 3


@pytest.mark.parametrize(
    ("bad_line", "message"),
    [
        (b"{nonsense\n", "not JSON: .* at character 1"),
        (b"\n", "blank line"),
        (b'["text"]\n', "not an object: list"),
        (b'{"text": "x"}\n', "the record has the fields text"),
        (line(stars=3), "stars"),
        (line(text=7), "wrong type: text is int"),
        (line(language=None), "wrong type: language is NoneType"),
        (b"\x7fELF\x00\xff\xfe\n", "not UTF-8: invalid start byte at byte 5"),
        (line(text="MZ\0\0"), "NUL character: at character 2 of text"),
        (line(text="#").replace(b'"#"', b'"\\ud800"'), "half a surrogate pair"),
    ],
)
def test_bad_line_is_reported_with_file_and_line(
    tmp_path: Path, bad_line: bytes, message: str
) -> None:
    write(tmp_path, "demo.jsonl", line(), line(), bad_line, line())
    with pytest.raises(RecordError, match=message) as error:
        read_corpus(tmp_path)
    assert error.value.got.startswith(f"{tmp_path / 'demo.jsonl'}:3: ")


def test_folder_without_corpus_raises_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no \*\.jsonl file"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_corpus(tmp_path / "absent")


def test_deeply_nested_line_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", line(), b"[" * 200_000 + b"\n")
    with pytest.raises(RecordError, match=r"(?s)a\.jsonl:2: not JSON.*fix: "):
        read_corpus(tmp_path)
