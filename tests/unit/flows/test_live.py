"""What a terminal shows of a training stage."""

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
LEFT_OUT = STEP.replace(
    step=121, loss=None, grad_norm=None, bits_per_byte=None, held_out=None, skipped=True
)


def test_a_line_says_where_it_is() -> None:
    assert format_step(STEP, 400) == "step 120/400  loss 4.310  7,030 tokens/s  MFU 61%  0:58 left"
    assert (
        format_step(LEFT_OUT, 400) == "step 121/400  left out  7,030 tokens/s  MFU 61%  0:58 left"
    )


def test_the_table_has_every_figure_of_a_step() -> None:
    assert metric_rows(STEP, {"Python": 1.9551}) == {
        "bits per byte": "2.124",
        "learning rate": "2.50e-04",
        "gradient norm": "0.88",
        "tokens": "245,760",
        "waited for data": "12 ms",
        "for a checkpoint": "0.3 s",
        "memory of a rank": "1.2 GB",
        "held-out Python": "1.955",
    }
    assert metric_rows(LEFT_OUT, {})["gradient norm"] == "-"
    assert metric_rows(LEFT_OUT, {"Python": None})["held-out Python"] == "not finite"


def test_a_terminal_shows_both_and_keeps_what_was_measured_last() -> None:
    output = io.StringIO()
    with training_view(
        "mono", 400, Console(file=output, force_terminal=True, width=120, color_system=None)
    ) as show:
        show(STEP)
        show(LEFT_OUT)
    drawn = output.getvalue()
    assert "mono" in drawn
    assert "step 121/400  left out" in drawn
    assert "1.955" in drawn.rpartition("left out")[2]


def test_elsewhere_the_last_step_is_always_said() -> None:
    output = io.StringIO()
    with training_view("mono", 121, Console(file=output, width=60)) as show:
        show(STEP)
        show(LEFT_OUT)
    assert (
        output.getvalue()
        == f"  mono  {format_step(STEP, 121)}\n  mono  {format_step(LEFT_OUT, 121)}\n"
    )
