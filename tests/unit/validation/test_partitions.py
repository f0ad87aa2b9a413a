"""Corpora that a recipe declares: profiled partition by partition, and nothing that cannot be read is lost from sight."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora_on_disk import SMALL, records, write_raw
from fixtures.sources import zstd
from rich.filesize import decimal

from components.core import progress
from components.core.errors import RecordError
from components.data.config import DataConfig, DataExecution
from components.data.sources.config import Source
from components.validation.profile_partitions import ProfileResult, profile_sources
from components.validation.quarantine_page import MAX_EXAMPLES, QuarantineSummary, merge_quarantined
from components.validation.raw import profile_folder

CUT, BINARY, NAMELESS = b'{"text": "%d', b'{"text": "\xff%d"}', b'{"text": "which language? %d"}'


def source(folder: Path, *files: list[bytes]) -> Source:
    """JSON Lines files of the given lines: each a partition."""
    folder.mkdir()
    for number, lines in enumerate(files):
        (folder / f"{number}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return Source(uri=f"{folder}/*.jsonl")


def profile(corpus: str, one: Source, tmp_path: Path, num_workers: int = 2) -> ProfileResult:
    return profile_sources(
        corpus,
        [one],
        SMALL,
        DataConfig(),
        DataExecution(num_workers=num_workers),
        tmp_path / "under-way",
    )


def test_a_profile_of_partitions_is_that_of_the_folder_and_bad_records_are_counted_by_kind(
    tmp_path: Path,
) -> None:
    content = records(num=6)
    good = [json.dumps(one).encode() for one in content]
    foreign = b'{"text": "x", "path": "no/prose.py"}'
    files = (
        [*good[:2], CUT % 1, BINARY % 1],
        [CUT % 2, *good[2:], NAMELESS % 1, CUT % 30, foreign, b""],
    )
    found = profile("nl", source(tmp_path / "raw", *files), tmp_path)
    assert found.profile == profile_folder(
        "nl", write_raw(tmp_path / "same", content), SMALL
    ).with_quarantined(5)
    assert found.num_read == 6 + 5 + 2, (
        "what is in another language and a blank line are left out, and are records read"
    )
    assert found.quarantined.nums == {"not JSON": 3, "not UTF-8": 1, "no language": 1}
    places = [
        (one["kind"], Path(one["file"]).name, one["offset"]) for one in found.quarantined.examples
    ]
    first, second = (
        sum(len(one) + 1 for one in good[:2]),
        len(CUT % 2) + 1 + sum(len(one) + 1 for one in good[2:]),
    )
    assert sorted(places) == [
        ("no language", "1.jsonl", second),
        ("not JSON", "0.jsonl", first),
        ("not JSON", "1.jsonl", 0),
        ("not JSON", "1.jsonl", second + len(NAMELESS % 1) + 1),
        ("not UTF-8", "0.jsonl", first + len(CUT % 1) + 1),
    ]


def test_many_of_one_kind_hide_no_other_and_are_all_counted(tmp_path: Path) -> None:
    lines = [*(CUT % number for number in range(MAX_EXAMPLES + 20)), BINARY % 1]
    one = profile("nl", source(tmp_path / "raw", lines, lines), tmp_path)
    assert one.profile.num_quarantined == 2 * (MAX_EXAMPLES + 21)
    assert one.quarantined.nums == {"not JSON": 2 * (MAX_EXAMPLES + 20), "not UTF-8": 2}
    kinds = [example["kind"] for example in one.quarantined.examples]
    assert (kinds.count("not JSON"), kinds.count("not UTF-8")) == (MAX_EXAMPLES, 2)


def test_what_was_set_aside_is_the_same_in_whichever_parts_it_was_read() -> None:
    examples = [{"kind": f"kind {n % 3}", "file": f"{n % 2}", "offset": n} for n in range(700)]
    whole = merge_quarantined([QuarantineSummary({f"kind {n}": 300 for n in range(3)}, examples)])
    for seed in range(5):
        chance = np.random.default_rng(seed)
        mixed = [examples[at] for at in chance.permutation(700)]
        cuts = [0, *sorted(chance.choice(700, 4, replace=False)), 700]
        parts = [QuarantineSummary({}, mixed[start:stop]) for start, stop in pairwise(cuts)]
        nums = [QuarantineSummary({f"kind {n}": 150 for n in range(3)}, [])] * 2
        assert merge_quarantined([*parts, *nums]) == whole


def test_it_is_seen_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
    good = [json.dumps(one).encode() for one in records(num=7)]
    files = source(tmp_path / "raw", [*good[:3], CUT % 1], good[3:])
    size = decimal(sum(path.stat().st_size for path in (tmp_path / "raw").iterdir()))
    profile("nl", files, tmp_path, num_workers=1)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == f"profile nl: 0 bytes of {size}, 0 documents, 0 rejected"
    assert last.startswith(f"profile nl: {size} of {size}")
    assert last.endswith(", 7 documents, 1 rejected")
    assert not (tmp_path / "under-way").exists()


def test_nothing_is_left_of_a_profile_that_failed(tmp_path: Path) -> None:
    damaged = source(tmp_path / "raw").replace(uri=f"{tmp_path}/raw/0.jsonl.zst")
    (tmp_path / "raw" / "0.jsonl.zst").write_bytes(
        zstd(json.dumps(records(num=1)[0]).encode())[:-3]
    )
    with pytest.raises(RecordError, match=r"0\.jsonl\.zst is damaged or truncated"):
        profile("nl", damaged, tmp_path)
    assert not (tmp_path / "under-way").exists()
