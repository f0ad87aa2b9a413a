"""The live view of a training stage on a terminal and in a log file."""

from __future__ import annotations

import io

from rich.console import Console

from components.training.metrics import StepMetrics
from flows.runtime.training_view import format_step, metric_rows, training_view

STEP = StepMetrics(
    step=120,
    tokens=245_760,
    loss=4.3104,
    learning_rate=2.5e-4,
    grad_norm=0.876,
    bits_per_byte=2.1237,
    held_out={"Python": 1.9551},
    tokens_per_s=7_030.4,
    mfu=0.612,
    peak_flops=1e11,
    data_wait_s=0.012,
    checkpoint_wait_s=0.31,
    peak_memory_bytes=1_250_000_000,
    elapsed_s=60.0,
    time_left_s=58.4,
)
SKIPPED = STEP.replace(
    step=121, loss=None, grad_norm=None, bits_per_byte=None, held_out=None, skipped=True
)


def test_a_line_has_step_loss_speed_and_remaining_time() -> None:
    assert (
        format_step(STEP, 400) == "step 120/400  loss 4.310  7,030 tokens/s  MFU 61%  ETA 0:00:58"
    )
    assert (
        format_step(SKIPPED, 400) == "step 121/400  skipped  7,030 tokens/s  MFU 61%  ETA 0:00:58"
    )


def test_the_table_has_all_metrics_of_a_step() -> None:
    assert metric_rows(STEP, {"Python": 1.9551}) == {
        "bits per byte": "2.124",
        "learning rate": "2.50e-04",
        "gradient norm": "0.88",
        "tokens": "245,760",
        "data wait": "12 ms",
        "checkpoint wait": "0.3 s",
        "memory per rank": "1.2 GB",
        "held-out Python": "1.955",
    }
    assert metric_rows(SKIPPED, {})["gradient norm"] == "-"
    assert metric_rows(SKIPPED, {"Python": None})["held-out Python"] == "not finite"


def test_a_terminal_shows_progress_and_the_latest_evaluation() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    with training_view("mono", 400, console) as show:
        show(STEP)
        show(SKIPPED)
    drawn = output.getvalue()
    assert "mono" in drawn
    assert "121/400 skipped" in drawn
    assert "1.955" in drawn.rpartition("skipped")[2]


def test_a_log_file_always_has_the_last_step() -> None:
    output = io.StringIO()
    with training_view("mono", 121, Console(file=output, width=60)) as show:
        show(STEP)
        show(SKIPPED)
    lines = [f"  mono  {format_step(step, 121)}\n" for step in (STEP, SKIPPED)]
    assert output.getvalue() == "".join(lines)
