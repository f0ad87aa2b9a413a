from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from components.core.errors import CodegenError, ConfigError, DiskFullError, JsonError
from components.core.files import (
    MAX_JSON_DEPTH,
    atomic_write_path,
    parse_json,
    read_json,
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


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("levels", [MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1, 900, 100_000])
def test_json_has_a_bounded_depth(opening: str, levels: int) -> None:
    closing = {"[": "]", '{"a":': "}"}[opening]
    text = opening * levels + "1" + closing * levels
    if levels > MAX_JSON_DEPTH:
        with pytest.raises(ValueError, match="nested more than 100 levels"):
            parse_json(text)
        return
    value = parse_json(text)
    for _ in range(levels):
        value = value[0] if opening == "[" else value["a"]
    assert value == 1


def test_json_of_many_containers_on_few_levels_is_read() -> None:
    values = [[1, {"a": []}]] * 1000
    assert parse_json(json.dumps(values)) == values


@pytest.mark.parametrize("text", ["[" * 5, b"\xff\xfe1\x00", "9" * 5000, b""], ids=range(4))
def test_invalid_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize("content", ["{", "[" * 100_000], ids=["open", "deep"])
def test_an_error_in_a_json_file_names_the_place(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(f"1\n{content}")
    with pytest.raises(JsonError) as error:
        list(read_jsonl(path))
    assert error.value.got.startswith(f"{path}:2 is not valid JSON")
    with pytest.raises(JsonError) as error:
        read_json(path)
    assert error.value.got.startswith(f"{path} is not valid JSON")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\n')
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [{"a": 1}, {"a": 2}]


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
