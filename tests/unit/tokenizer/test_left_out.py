"""The sample of what is left out: of every reason and language, bounded, and the same however the corpus was cut."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.config import DataConfig, DataExecution
from components.data.sources.config import QuarantineConfig, Source
from components.dataset.manifests import REJECTS_SCHEMA
from components.dataset.rejects import COLUMNS, sample_of_quarantine, sample_of_rejects
from components.preparation.corpus_pipeline import prepare_corpus
from components.tokenizer.config import TokenizerConfig

SEED = 5
KEPT = [f"def f{n}(x):\n    return [x + {n} * y for y in range({n})]\n" * 3 for n in range(40)]
DIGITS = [f"{n:03}0123456789\n" * 9 for n in range(9)]
LONG = [f"# {n}\n" + "z" * 1001 + "\n" * 20 for n in range(2)]


def record(text: str, path: str) -> dict[str, str]:
    return {
        "language": "Python",
        "licence": "MIT",
        "path": path,
        "source": "demo 1.0",
        "text": text,
    }


def prepared(folder: Path, files: list[list[bytes]], tokenizer: Path) -> Path:
    """A corpus that was prepared from the lines of some files."""
    for path in (folder / "raw", folder / "out"):
        path.mkdir(parents=True)
    for number, lines in enumerate(files):
        (folder / "raw" / f"{number}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    prepare_corpus(
        folder / "out",
        sources=[Source(uri=f"{folder / 'raw'}/*.jsonl")],
        corpus="mono",
        data=DataConfig(held_out_fraction=0.25, quarantine=QuarantineConfig(max_bad_fraction=0.5)),
        tokenizer_folder=tokenizer,
        tokenizer=TokenizerConfig(num_merges=600),
        context_length=32,
        seed=SEED,
        place=DataExecution(num_workers=1),
    )
    return folder / "out"


def in_order(texts: list[str]) -> list[str]:
    """The SHA-256 of texts, in the order of the keyed hash that docs/preparation.md speaks of."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return [
        one.hex()
        for one in sorted(
            digests, key=lambda one: hashlib.sha256(f"order:{SEED}:".encode() + one).digest()
        )
    ]


def test_the_sample_is_chosen_by_content_however_the_corpus_lies_in_files(
    small_folder: Path, tmp_path: Path
) -> None:
    texts = [*KEPT, *DIGITS, *LONG, "", "", KEPT[7], KEPT[7], KEPT[3]]
    lines = [
        json.dumps(record(text, f"src/{number:02}.py")).encode()
        for number, text in enumerate(texts)
    ]
    mixed = [lines[at] for at in np.random.default_rng(0).permutation(len(lines))]
    cuts = {"one": [lines], "three": [mixed[:9], mixed[9:40], mixed[40:]]}
    one, three = (
        sample_of_rejects(prepared(tmp_path / name, files, small_folder) / "rejects.parquet")
        for name, files in cuts.items()
    )
    assert one == three
    assert all(tuple(row) == COLUMNS for row in one)
    found = {
        reason: [row["sha256"] for row in one if row["reason"] == reason]
        for reason in {row["reason"] for row in one}
    }
    assert found == {
        "digits": in_order(DIGITS)[:3],
        "line length": in_order(LONG),
        "empty": in_order([""]),
        "duplicate": in_order([KEPT[7], KEPT[3]]),
    }
    (empty,) = (row for row in one if row["reason"] == "empty")
    assert (empty["language"], empty["source"], empty["path"], empty["num_bytes"]) == (
        "Python",
        "demo 1.0",
        "src/51.py",
        0,
    )
    assert {row["path"] for row in one if row["reason"] == "duplicate"} == {
        "src/53.py",
        "src/55.py",
    }
    assert {row["excerpt"] for row in one if row["reason"] == "duplicate"} == {None}
    assert all(
        row["excerpt"] == DIGITS[int(row["path"][4:6]) - 40][:200]
        for row in one
        if row["reason"] == "digits"
    )


def naive(rows: list[dict[str, Any]], num_each: int) -> list[dict[str, Any]]:
    chosen: list[dict[str, Any]] = []
    for row in rows:
        same = [
            one
            for one in chosen
            if (one["reason"], one["language"]) == (row["reason"], row["language"])
        ]
        if len(same) < num_each and row["sha256"] not in {one["sha256"] for one in same}:
            chosen.append(row)
    return chosen


def table(folder: Path, groups: list[tuple[str, str, str]]) -> tuple[Path, list[dict[str, Any]]]:
    rows = [
        {
            "sha256": content,
            "language": language,
            "reason": reason,
            "path": f"{n}",
            "source": "a",
            "num_bytes": n,
            "excerpt": None,
        }
        for n, (reason, language, content) in enumerate(groups)
    ]
    path = folder / "rejects.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA), path, row_group_size=1000)
    return path, [{name: row[name] for name in COLUMNS} for row in rows]


def test_a_rare_reason_is_found_behind_many_others(tmp_path: Path) -> None:
    contents = np.random.default_rng(1).integers(50, size=30_000)
    groups = [("duplicate", "C" if content % 3 else "C++", f"{content}") for content in contents]
    groups += [("empty", "C", "e")] * 9000 + [
        ("digits", "C", "d"),
        ("empty", "C", "f"),
        ("digits", "C", "d"),
    ]
    groups += [("empty", "C", "f")] * 9000 + [("empty", "C", "g"), ("empty", "C", "h")]
    path, rows = table(tmp_path, groups)
    found = sample_of_rejects(path)
    assert found == naive(rows, 3)
    assert [row["path"] for row in found if row["reason"] != "duplicate"] == [
        "30000",
        "39000",
        "39001",
        "48003",
    ]


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from(["C", "C++"]), st.sampled_from("abcde"))
    ),
    num_each=st.integers(1, 4),
)
def test_the_sample_is_what_a_loop_would_choose(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[str, str, str]], num_each: int
) -> None:
    path, rows = table(tmp_path_factory.mktemp("table"), groups)
    assert sample_of_rejects(path, num_each) == naive(rows, num_each)


def test_records_that_could_not_be_read_are_sampled_by_kind_in_any_order(
    small_folder: Path, tmp_path: Path
) -> None:
    good = [json.dumps(record(text, f"{number}.py")).encode() for number, text in enumerate(KEPT)]
    cut = [b'{"text": "%d' % number for number in range(10)]
    folder = prepared(
        tmp_path,
        [[*good[:20], *cut[:5], b'{"text": "\xff"}'], [*cut[5:], *good[20:]]],
        small_folder,
    )
    lines = (folder / "quarantine.jsonl").read_bytes().splitlines()
    assert len(lines) == 11
    rows = sample_of_quarantine(lines)
    orders = [np.random.default_rng(seed).permutation(11) for seed in range(5)]
    assert all(sample_of_quarantine([lines[at] for at in order]) == rows for order in orders)
    assert [row["reason"].partition(":")[0] for row in rows] == ["not JSON"] * 3 + ["not UTF-8"]
    assert all(
        tuple(row) == COLUMNS and row["language"] is row["sha256"] is row["num_bytes"] is None
        for row in rows
    )
    (binary,) = rows[3:]
    assert (Path(binary["source"]).name, binary["excerpt"]) == ("0.jsonl", '{"text": "\\xff"}')
    assert binary["path"] == f"offset {sum(len(line) + 1 for line in [*good[:20], *cut[:5]])}"
