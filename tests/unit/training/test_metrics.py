"""The metrics file contains each step once, also after crashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core.files import write_json
from components.training.budget import Usage
from components.training.metrics import (
    MetricsFile,
    Restart,
    StepMetrics,
    read_metrics,
    read_restarts,
    read_usage,
    record_restart,
)


def step(number: int) -> StepMetrics:
    return StepMetrics(
        step=number,
        loss=1.0 / number,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens=number * 64,
        tokens_per_s=10.0,
        mfu=0.5,
        elapsed_s=2.0 * number,
        time_left_s=0.0,
    )


@pytest.mark.parametrize("truncated_line", ["", '{"step": 6, "loss": 0.1'])
def test_a_resumed_stage_drops_later_lines_and_appends(tmp_path: Path, truncated_line: str) -> None:
    path = tmp_path / "observed" / "metrics.jsonl"
    with MetricsFile(path, after_step=0) as file:
        for number in range(1, 6):
            file.append(step(number))
            assert read_metrics(path)[-1] == step(number), "flushed"
    with path.open("a") as opened:
        opened.write(truncated_line)

    with MetricsFile(path, after_step=3) as file:
        assert read_metrics(path) == [step(1), step(2), step(3)]
        file.append(step(4))
    assert read_metrics(path) == [step(1), step(2), step(3), step(4)]


def test_a_restart_is_recorded_with_its_lost_steps(tmp_path: Path) -> None:
    path, metrics = tmp_path / "observed" / "restarts.jsonl", tmp_path / "metrics.jsonl"
    record_restart(path, metrics, 0, ())
    assert not read_restarts(path), "the first attempt"
    with MetricsFile(metrics, after_step=0) as file:
        for number in range(1, 8):
            file.append(step(number))
    record_restart(path, metrics, 4, (6,))
    record_restart(path, metrics, 7, ())
    record_restart(path, metrics, 0, ())
    assert read_restarts(path) == [
        Restart(resumed_step=4, lost_steps=3, damaged_steps=(6,)),
        Restart(resumed_step=7, lost_steps=0),
        Restart(resumed_step=0, lost_steps=7),
    ]


def test_a_line_of_an_older_version_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = step(1).model_dump()
    del line["data_wait_s"]
    path.write_text(json.dumps(line) + "\n")
    assert read_metrics(path) == [step(1)]


@pytest.mark.parametrize("damage", [b"\x00" * 300, b'{"step": 2, "lo\xff', b"[1]", b"1", b"{}"])
def test_a_damaged_line_is_logged_and_does_not_stop_a_stage(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, after_step=0) as file:
        for number in range(1, 4):
            file.append(step(number))
    lines = path.read_bytes().splitlines()
    lines[1] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    with MetricsFile(path, after_step=3) as file:
        file.append(step(4))
    assert read_metrics(path) == [step(1), step(3), step(4)]
    assert f"{path} has lost the metrics of 1 steps" in caplog.text


def test_an_absent_file_has_no_steps(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_the_usage_survives_an_attempt_that_ends_before_its_first_step(tmp_path: Path) -> None:
    path, usage = tmp_path / "metrics.jsonl", tmp_path / "usage.json"
    assert read_usage(usage, read_metrics(path)) == Usage()
    with MetricsFile(path, after_step=0) as file:
        for number in range(1, 6):
            file.append(step(number))
    used = read_usage(usage, read_metrics(path))
    assert used == Usage(elapsed_s=10.0)
    write_json(usage, used.model_dump())
    with MetricsFile(path, after_step=2):
        pass
    assert read_usage(usage, read_metrics(path)) == used
    write_json(usage, Usage(elapsed_s=1.0, device_s=8.0).model_dump())
    assert read_usage(usage, read_metrics(path)) == Usage(elapsed_s=4.0, device_s=8.0)
