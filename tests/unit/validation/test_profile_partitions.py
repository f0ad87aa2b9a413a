"""Profiles of partitioned corpora, with all quarantined records counted."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpus_files_on_disk import SMALL, records, write_raw
from fixtures.sources import zstd
from rich.filesize import decimal

from components.core import progress
from components.core.errors import RecordError
from components.data.config import DataConfig, DataExecution
from components.data.sources.config import Source
from components.validation.profile import (
    MAX_QUARANTINED_EXAMPLES,
    QuarantineSummary,
    merge_quarantined,
)
from components.validation.profile_partitions import ProfileResult, profile_sources
from components.validation.raw import profile_folder

TRUNCATED, BINARY, NO_LANGUAGE = (
    b'{"text": "%d',
    b'{"text": "\xff%d"}',
    b'{"text": "which language? %d"}',
)


def source(folder: Path, *files: list[bytes]) -> Source:
    """JSON Lines files with the given lines; each file is a partition."""
    folder.mkdir()
    for number, lines in enumerate(files):
        (folder / f"{number}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return Source(uri=f"{folder}/*.jsonl")


def profile(files: Source, tmp_path: Path, num_workers: int = 2) -> ProfileResult:
    return profile_sources(
        "nl",
        [files],
        SMALL,
        DataConfig(),
        DataExecution(num_workers=num_workers),
        tmp_path / "progress",
    )


def test_the_profile_equals_that_of_the_folder_and_bad_records_are_counted_by_kind(
    tmp_path: Path,
) -> None:
    content = records(num=6)
    good = [json.dumps(record).encode() for record in content]
    foreign = b'{"text": "x", "path": "no/prose.py"}'
    files = (
        [*good[:2], TRUNCATED % 1, BINARY % 1],
        [TRUNCATED % 2, *good[2:], NO_LANGUAGE % 1, TRUNCATED % 30, foreign, b""],
    )
    result = profile(source(tmp_path / "raw", *files), tmp_path)
    assert result.profile == profile_folder(
        write_raw(tmp_path / "same", content), ("English",), SMALL
    ).with_quarantined(5)
    assert result.num_read == 6 + 5 + 2, (
        "the record in another language and the blank line are skipped, and count as read"
    )
    assert result.quarantined.counts == {"not JSON": 3, "not UTF-8": 1, "no language": 1}
    locations = [
        (record["kind"], Path(record["file"]).name, record["offset"])
        for record in result.quarantined.examples
    ]
    first = sum(len(line) + 1 for line in good[:2])
    second = len(TRUNCATED % 2) + 1 + sum(len(line) + 1 for line in good[2:])
    assert sorted(locations) == [
        ("no language", "1.jsonl", second),
        ("not JSON", "0.jsonl", first),
        ("not JSON", "1.jsonl", 0),
        ("not JSON", "1.jsonl", second + len(NO_LANGUAGE % 1) + 1),
        ("not UTF-8", "0.jsonl", first + len(TRUNCATED % 1) + 1),
    ]


def test_examples_are_limited_per_kind_and_all_records_are_counted(tmp_path: Path) -> None:
    lines = [*(TRUNCATED % number for number in range(MAX_QUARANTINED_EXAMPLES + 20)), BINARY % 1]
    good = json.dumps(records(num=1)[0]).encode()
    result = profile(source(tmp_path / "raw", [*lines, good], lines), tmp_path)
    assert result.profile.num_quarantined == 2 * (MAX_QUARANTINED_EXAMPLES + 21)
    assert result.quarantined.counts == {
        "not JSON": 2 * (MAX_QUARANTINED_EXAMPLES + 20),
        "not UTF-8": 2,
    }
    kinds = [example["kind"] for example in result.quarantined.examples]
    assert (kinds.count("not JSON"), kinds.count("not UTF-8")) == (MAX_QUARANTINED_EXAMPLES, 2)


def test_merged_quarantine_summaries_do_not_depend_on_the_partitioning() -> None:
    examples = [{"kind": f"kind {n % 3}", "file": f"{n % 2}", "offset": n} for n in range(700)]
    expected = merge_quarantined(
        [QuarantineSummary({f"kind {n}": 300 for n in range(3)}, examples)]
    )
    for seed in range(5):
        random = np.random.default_rng(seed)
        mixed = [examples[index] for index in random.permutation(700)]
        cuts = [0, *sorted(random.choice(700, 4, replace=False)), 700]
        parts = [QuarantineSummary({}, mixed[start:stop]) for start, stop in pairwise(cuts)]
        counts = [QuarantineSummary({f"kind {n}": 150 for n in range(3)}, [])] * 2
        assert merge_quarantined([*parts, *counts]) == expected


def test_progress_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0)
    good = [json.dumps(record).encode() for record in records(num=7)]
    files = source(tmp_path / "raw", [*good[:3], TRUNCATED % 1], good[3:])
    size = decimal(sum(path.stat().st_size for path in (tmp_path / "raw").iterdir()))
    profile(files, tmp_path, num_workers=1)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == f"profile nl: 0 bytes of {size}, 0 documents, 0 rejected"
    assert last.startswith(f"profile nl: {size} of {size}")
    assert last.endswith(", 7 documents, 1 rejected")
    assert not (tmp_path / "progress").exists()


def test_a_failed_profile_leaves_no_files(tmp_path: Path) -> None:
    damaged = source(tmp_path / "raw").replace(uri=f"{tmp_path}/raw/0.jsonl.zst")
    (tmp_path / "raw" / "0.jsonl.zst").write_bytes(
        zstd(json.dumps(records(num=1)[0]).encode())[:-3]
    )
    with pytest.raises(RecordError, match=r"0\.jsonl\.zst is damaged or truncated"):
        profile(damaged, tmp_path)
    assert not (tmp_path / "progress").exists()


@pytest.mark.parametrize(
    ("lines", "pattern"),
    [
        ([b'[{"text": "a"}]'], "'not an object'"),
        ([b'{"text": "x", "path": "no/prose.py"}'], "language 1"),
        ([b""], "blank line 1"),
    ],
)
def test_a_corpus_without_a_readable_record_is_an_error_before_any_rule(
    tmp_path: Path, lines: list[bytes], pattern: str
) -> None:
    with pytest.raises(RecordError, match=pattern):
        profile(source(tmp_path / "raw", lines), tmp_path)
