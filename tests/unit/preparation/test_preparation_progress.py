"""Progress of a preparation, while it runs and when it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixtures.fixed_length_corpus import BYTES_ONLY, write_equal_records
from fixtures.prepare_helpers import ONE_WORKER
from rich.filesize import decimal

from components.core import progress
from components.core.errors import RecordError
from components.data import task_progress
from components.data.config import DataConfig
from components.data.sources import jsonl, partition_reader
from components.data.sources.config import Source
from components.data.sources.partitions import list_partitions
from components.data.task_progress import ProgressAggregator
from components.preparation.prepare_job import PrepareJob
from components.preparation.tokenize_stage import run_tokenize_stage, tokenize_partition


def write_job(folder: Path, tokenizer: Path) -> PrepareJob:
    job = PrepareJob(
        folder=str(folder),
        corpus="mono",
        data=DataConfig(held_out_fraction=0.25),
        max_epochs=1.0,
        origins=(f"{folder.parent}/raw/*",),
        seed=1,
        tokenizer_folder=str(tokenizer),
        tokenizer=BYTES_ONLY,
        context_length=7,
        verify_fraction=0.0,
        run_bytes=10**6,
    )
    job.write()
    return job


def test_a_running_task_reports_progress(
    bytes_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a truncated file: the report before the error is visible, the next run discards it."""
    monkeypatch.setattr(task_progress, "_REPORT_INTERVAL_S", 0)
    monkeypatch.setattr(partition_reader, "BATCH_BYTES", 5_000)
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 5_000)
    text = "%06d" + "\nx = y" * 7 + "\n"
    raw = write_equal_records(tmp_path / "raw/a.jsonl.gz", text, 1000)
    (raw / "a.jsonl.gz").write_bytes((raw / "a.jsonl.gz").read_bytes()[:-1])
    (partition,) = list_partitions([Source(uri=f"{raw}/*")])
    job = write_job(tmp_path / "work", bytes_only)
    task: Any = {
        "job": job.path,
        "partition": partition.model_dump(mode="json"),
        "single_process": False,
    }
    aggregator = ProgressAggregator(job.progress_dir)
    with pytest.raises(RecordError):
        tokenize_partition(task)
    snapshot = aggregator.snapshot()
    num_documents = int(snapshot.detail.split()[0].replace(",", ""))
    assert 100 < num_documents < 1000
    assert snapshot.throughput_count == num_documents * (6 + 7 * 6 + 1)
    assert snapshot.done / partition.size_bytes == pytest.approx(num_documents / 1000, abs=0.1)
    assert ProgressAggregator(job.progress_dir).snapshot().done == 0


def test_finished_tasks_of_an_earlier_attempt_count_from_the_start(
    bytes_only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0)
    for number in range(3):
        raw = write_equal_records(tmp_path / f"raw/{number}.jsonl", f"{number}-%04d\n", 10)
    partitions = list_partitions([Source(uri=f"{raw}/*")])
    size = sum(partition.size_bytes for partition in partitions)
    job = write_job(tmp_path / "work", bytes_only)
    first = run_tokenize_stage(
        job, partitions[:2], ONE_WORKER, single_process=False, num_bytes=size
    )
    # A progress file as a killed task leaves it.
    (job.progress_dir / job.tokenized_dir(partitions[0]).name).write_text("[5, 5, 5, 5]")
    capsys.readouterr()
    results = run_tokenize_stage(job, partitions, ONE_WORKER, single_process=False, num_bytes=size)
    start, *_, end = capsys.readouterr().err.splitlines()
    total = decimal(size)
    two_thirds = decimal(size * 2 // 3)
    assert start == f"tokenize mono: {two_thirds} of {total}, 20 documents, 0 rejected"
    assert end.startswith(f"tokenize mono: {total} of {total}")
    assert end.endswith("30 documents, 0 rejected")
    assert results[:2] == first
    assert list(job.progress_dir.iterdir()) == []
