from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from components.core.errors import CodegenError, ConfigError, DiskFullError
from components.core.files import (
    atomic_write_path,
    read_jsonl,
    require_disk_space,
    wrap_disk_full,
    write_atomic,
    write_json,
    write_jsonl,
)


def test_a_failed_write_leaves_the_old_bytes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError, match="half-way"), atomic_write_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError("half-way")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_json_has_a_fixed_format(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "é", "a": 1})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "a": 1,\n  "b": "é"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))


def test_json_lines_round_trip(tmp_path: Path) -> None:
    records = [{"text": "a\nb\u2028c"}, {"text": ""}]
    write_jsonl(tmp_path / "x.jsonl", records)
    assert list(read_jsonl(tmp_path / "x.jsonl")) == records


def test_missing_disk_space_is_an_error_before_the_work_starts(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="MB for a very large thing"):
        require_disk_space(tmp_path / "not" / "there", 1 << 60, "a very large thing")


def test_a_full_disk_is_a_disk_full_error() -> None:
    # /dev/full is Linux's device that answers every write with ENOSPC.
    full = pytest.raises(DiskFullError, match="filled up while writing a shard")
    with full, wrap_disk_full("writing a shard"), open("/dev/full", "w") as file:
        file.write("x")
    with pytest.raises(FileNotFoundError), wrap_disk_full("reading"):
        open("/does/not/exist")  # noqa: SIM115


def test_an_error_has_three_parts_and_survives_a_process_boundary() -> None:
    error = ConfigError("got this", expected="that", fix="so")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert isinstance(copy, ConfigError)
    assert isinstance(copy, CodegenError)
    assert str(copy) == "got this\n  expected: that\n  fix:      so"
