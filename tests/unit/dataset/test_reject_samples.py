"""Samples of rejected documents: bounded by reason and language, independent of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.prepare_helpers import prepare, record
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.config import DataConfig
from components.data.sources.config import QuarantineConfig
from components.dataset.manifests import (
    REJECTS_SCHEMA,
    SAMPLE_COLUMNS,
    sample_quarantined_records,
    sample_rejected_documents,
)

SEED = 5
DATA = DataConfig(held_out_fraction=0.25, quarantine=QuarantineConfig(max_quarantined_fraction=0.5))
ACCEPTED = [f"def f{n}(x):\n    return [x + {n} * y for y in range({n})]\n" * 3 for n in range(40)]
DIGITS = [f"{n:03}0123456789\n" * 9 for n in range(9)]
LONG = [f"# {n}\n" + "z" * 1001 + "\n" * 20 for n in range(2)]

Row = dict[str, Any]


def json_line(text: str, path: str) -> bytes:
    return json.dumps(record(text, "Python", path, "demo 1.0")).encode()


def prepare_lines(folder: Path, files: list[list[bytes]], tokenizer: Path) -> Path:
    """Prepare a corpus from files with these lines. Returns its folder."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for number, lines in enumerate(files):
        (raw / f"{number}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    prepare(folder / "out", raw, "mono", tokenizer, data=DATA, seed=SEED)
    return folder / "out"


def digests_in_order(texts: list[str]) -> list[str]:
    """The SHA-256 of texts in training order, as docs/preparation.md defines it."""

    def sort_key(digest: bytes) -> bytes:
        return hashlib.sha256(f"order:{SEED}:".encode() + digest).digest()

    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return [digest.hex() for digest in sorted(digests, key=sort_key)]


def test_the_sample_depends_on_contents_and_not_on_files(
    small_folder: Path, tmp_path: Path
) -> None:
    texts = [*ACCEPTED, *DIGITS, *LONG, "", "", ACCEPTED[7], ACCEPTED[7], ACCEPTED[3]]
    lines = [json_line(text, f"src/{number:02}.py") for number, text in enumerate(texts)]
    shuffled = [lines[index] for index in np.random.default_rng(0).permutation(len(lines))]
    layouts = {"one-file": [lines], "three": [shuffled[:9], shuffled[9:40], shuffled[40:]]}
    samples = []
    for name, files in layouts.items():
        corpus = prepare_lines(tmp_path / name, files, small_folder)
        samples.append(sample_rejected_documents(corpus / "rejects.parquet"))
    assert samples[0] == samples[1]
    by_reason: dict[str, list[Row]] = {}
    for row in samples[0]:
        assert tuple(row) == SAMPLE_COLUMNS
        by_reason.setdefault(row["reason"], []).append(row)
    digests = {reason: [row["sha256"] for row in rows] for reason, rows in by_reason.items()}
    assert digests == {
        "digits": digests_in_order(DIGITS)[:3],
        "line length": digests_in_order(LONG),
        "empty": digests_in_order([""]),
        "duplicate": digests_in_order([ACCEPTED[7], ACCEPTED[3]]),
    }
    (empty,) = by_reason["empty"]
    columns = ("language", "source", "path", "num_bytes")
    assert [empty[name] for name in columns] == ["Python", "demo 1.0", "src/51.py", 0]
    assert {row["path"] for row in by_reason["duplicate"]} == {"src/53.py", "src/55.py"}
    assert {row["excerpt"] for row in by_reason["duplicate"]} == {None}
    for row in by_reason["digits"]:
        assert row["excerpt"] == DIGITS[int(row["path"][4:6]) - 40][:200]


def reference_sample(rows: list[Row], num_each: int) -> list[Row]:
    sample: list[Row] = []
    for row in rows:
        group = (row["reason"], row["language"])
        digests = {
            sampled["sha256"]
            for sampled in sample
            if (sampled["reason"], sampled["language"]) == group
        }
        if len(digests) < num_each and row["sha256"] not in digests:
            sample.append(row)
    return sample


def write_table(folder: Path, groups: list[tuple[str, str, str]]) -> tuple[Path, list[Row]]:
    """Write `rejects.parquet` from (reason, language, content). Returns its path and rows."""
    rows = [
        {
            "sha256": content,
            "language": language,
            "reason": reason,
            "path": f"{number}",
            "source": "a",
            "num_bytes": number,
            "excerpt": None,
        }
        for number, (reason, language, content) in enumerate(groups)
    ]
    path = folder / "rejects.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA), path, row_group_size=1000)
    return path, [{name: row[name] for name in SAMPLE_COLUMNS} for row in rows]


def test_a_rare_reason_is_sampled_after_many_other_rows(tmp_path: Path) -> None:
    contents = np.random.default_rng(1).integers(50, size=30_000)
    groups = [("duplicate", "C" if content % 3 else "C++", f"{content}") for content in contents]
    groups += [("empty", "C", "e")] * 9000
    groups += [("digits", "C", "d"), ("empty", "C", "f"), ("digits", "C", "d")]
    groups += [("empty", "C", "f")] * 9000 + [("empty", "C", "g"), ("empty", "C", "h")]
    path, rows = write_table(tmp_path, groups)
    sample = sample_rejected_documents(path)
    assert sample == reference_sample(rows, 3)
    paths = [row["path"] for row in sample if row["reason"] != "duplicate"]
    assert paths == ["30000", "39000", "39001", "48003"]


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from(["C", "C++"]), st.sampled_from("abcde"))
    ),
    num_each=st.integers(1, 4),
)
def test_the_sample_equals_the_reference(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[str, str, str]], num_each: int
) -> None:
    path, rows = write_table(tmp_path_factory.mktemp("table"), groups)
    assert sample_rejected_documents(path, num_each) == reference_sample(rows, num_each)


def test_bad_records_are_sampled_by_kind_in_any_order(small_folder: Path, tmp_path: Path) -> None:
    good = [json_line(text, f"{number}.py") for number, text in enumerate(ACCEPTED)]
    truncated = [b'{"text": "%d' % number for number in range(10)]
    files = [
        [*good[:20], *truncated[:5], b'{"text": "\xff"}'],
        [*truncated[5:], *good[20:]],
    ]
    corpus = prepare_lines(tmp_path, files, small_folder)
    lines = (corpus / "quarantine.jsonl").read_bytes().splitlines()
    assert len(lines) == 11
    rows = sample_quarantined_records(lines)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(11)
        assert sample_quarantined_records([lines[index] for index in order]) == rows
    assert [row["reason"].partition(":")[0] for row in rows] == ["not JSON"] * 3 + ["not UTF-8"]
    for row in rows:
        assert tuple(row) == SAMPLE_COLUMNS
        assert row["language"] is row["sha256"] is row["num_bytes"] is None
    (binary,) = rows[3:]
    assert (Path(binary["source"]).name, binary["excerpt"]) == ("0.jsonl", '{"text": "\\xff"}')
    offset = sum(len(line) + 1 for line in [*good[:20], *truncated[:5]])
    assert binary["path"] == f"offset {offset}"
