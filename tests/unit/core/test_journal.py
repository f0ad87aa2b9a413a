"""What a killed run leaves behind, in all the states that a kill or a lost disk can give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.journal import Journal


def kept(path: Path) -> list[int]:
    """The numbers that are kept; the journal is for records with a number."""
    found: list[int] = []

    def keep(record: Any) -> None:
        found.append(int(record["number"]))

    with Journal(path, keep):
        return found


def test_what_was_added_is_there_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "it.jsonl"
    assert kept(path) == []
    with Journal(path, lambda _: None) as journal:
        journal.add([{"number": 1}, {"number": 2}])
        assert kept(path) == [1, 2]  # As a run sees it that comes after a kill at this moment.
        journal.add([{"number": 3}])
    assert kept(path) == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"number": 4', b'{"number": 4}', b"\0\0"])
def test_a_line_that_is_torn_is_cut_off_and_the_next_one_stands_alone(
    tmp_path: Path, torn: bytes
) -> None:
    path = tmp_path / "it.jsonl"
    path.write_bytes(b'{"number": 1}\n' + torn)
    assert kept(path) == [1]
    with Journal(path, lambda _: None) as journal:
        journal.add([{"number": 2}])
    assert path.read_bytes() == b'{"number": 1}\n{"number": 2}\n'


@pytest.mark.parametrize(
    "garbage", [b"\0" * 40, b"{}", b"7", b"\xff\xfe", b"", b'{"number": "x"}', b'{"number": [1]}']
)
def test_what_is_no_record_is_passed_over(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "it.jsonl"
    path.write_bytes(b'{"number": 1}\n' + garbage + b'\n{"number": 3}\n')
    assert kept(path) == [1, 3]
    assert "1 damaged lines" in caplog.text
