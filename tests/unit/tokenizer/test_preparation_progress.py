"""How far a preparation is, while it is under way and when it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.fixed_length_corpus import BYTES_ONLY, uniform
from rich.filesize import decimal

from components.core import progress
from components.core.errors import RecordError
from components.data import task_progress
from components.data.config import DataConfig, DataExecution
from components.data.sources import jsonl, record_batches
from components.data.sources.config import Source
from components.data.sources.partitions import list_partitions
from components.data.task_progress import ProgressAggregator
from components.preparation import corpus_pipeline
from components.preparation.job import PrepareJob
from components.preparation.tokenize_stage import tokenize_partition

ONE = DataExecution(num_workers=1)


def job_in(folder: Path, tokenizer: Path) -> PrepareJob:
    return PrepareJob(
        folder=str(folder),
        corpus="mono",
        data=DataConfig(held_out_fraction=0.25),
        seed=1,
        tokenizer_folder=str(tokenizer),
        tokenizer=BYTES_ONLY,
        verify_fraction=0.0,
        run_bytes=10**6,
    )


def test_a_task_tells_how_far_it_is_before_it_is_done(
    bytes_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that ends half-way: what was told until then can be seen, and is forgotten by the next run."""
    monkeypatch.setattr(task_progress, "_TELL_EVERY_S", 0)
    monkeypatch.setattr(record_batches, "BATCH_BYTES", 5_000)
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 5_000)
    raw = uniform(tmp_path / "raw/a.jsonl.gz", "%06d" + "\nx = y" * 7 + "\n", 1000)
    (raw / "a.jsonl.gz").write_bytes((raw / "a.jsonl.gz").read_bytes()[:-1])
    (partition,) = list_partitions([Source(uri=f"{raw}/*")])
    job = job_in(tmp_path / "work", bytes_only)
    work: Any = {
        "job": job.write(),
        "partition": partition.model_dump(mode="json"),
        "single_process": False,
    }
    board = ProgressAggregator(job.under_way)
    with pytest.raises(RecordError):
        tokenize_partition(work)
    seen = board.snapshot()
    num_documents = int(seen.note.split()[0].replace(",", ""))
    assert 100 < num_documents < 1000
    assert seen.flow == num_documents * (6 + 7 * 6 + 1)
    assert seen.done / partition.size_bytes == pytest.approx(num_documents / 1000, abs=0.1)
    assert ProgressAggregator(job.under_way).snapshot().done == 0


def test_what_an_earlier_attempt_finished_is_there_from_the_start(
    bytes_only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
    for number in range(3):
        raw = uniform(tmp_path / f"raw/{number}.jsonl", f"{number}-%04d\n", 10)
    partitions = list_partitions([Source(uri=f"{raw}/*")])
    size = sum(one.size_bytes for one in partitions)
    job = job_in(tmp_path / "work", bytes_only)
    path = job.write()
    first = corpus_pipeline.scatter_all(
        job, path, partitions[:2], ONE, single_process=False, num_bytes=size
    )
    (job.under_way / job.scattered(partitions[0]).name).write_text(
        "[5, 5, 5, 5]"
    )  # As one that was killed would leave it.
    capsys.readouterr()
    again = corpus_pipeline.scatter_all(
        job, path, partitions, ONE, single_process=False, num_bytes=size
    )
    start, *_, end = capsys.readouterr().err.splitlines()
    assert (
        start == f"read mono: {decimal(size * 2 // 3)} of {decimal(size)}, 20 documents, 0 rejected"
    )
    assert end.startswith(f"read mono: {decimal(size)} of {decimal(size)}")
    assert end.endswith("30 documents, 0 rejected")
    assert again[:2] == first
    assert list(job.under_way.iterdir()) == []
