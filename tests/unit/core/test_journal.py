"""A journal after a kill or a disk failure, in every state that these can leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.journal import Journal


def replayed(path: Path) -> list[int]:
    """Return the numbers of the replayed records."""
    numbers: list[int] = []

    def on_record(record: Any) -> None:
        numbers.append(int(record["number"]))

    with Journal(path, on_record):
        return numbers


def test_added_records_are_replayed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "it.jsonl"
    assert replayed(path) == []
    with Journal(path, lambda _: None) as journal:
        journal.add([{"number": 1}, {"number": 2}])
        # The view of a run that starts after a kill at this moment.
        assert replayed(path) == [1, 2]
        journal.add([{"number": 3}])
    assert replayed(path) == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"number": 4', b'{"number": 4}', b"\0\0"])
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "it.jsonl"
    path.write_bytes(b'{"number": 1}\n' + torn)
    assert replayed(path) == [1]
    with Journal(path, lambda _: None) as journal:
        journal.add([{"number": 2}])
    assert path.read_bytes() == b'{"number": 1}\n{"number": 2}\n'


@pytest.mark.parametrize(
    "garbage", [b"\0" * 40, b"{}", b"7", b"\xff\xfe", b"", b'{"number": "x"}', b'{"number": [1]}']
)
def test_a_damaged_line_is_skipped(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "it.jsonl"
    path.write_bytes(b'{"number": 1}\n' + garbage + b'\n{"number": 3}\n')
    assert replayed(path) == [1, 3]
    assert "1 damaged lines" in caplog.text
