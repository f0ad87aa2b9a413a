from __future__ import annotations

import io

from rich.console import Console

from components.training.metrics import StepMetrics
from flows.live import describe, training_view


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step, loss=4.31049, learning_rate=1e-3, grad_norm=0.5, tokens=step * 10, tokens_per_s=7029.7, mfu=0.614,
        elapsed_s=1.0, time_left_s=58.4,
    )  # fmt: skip


def test_a_step_is_described_for_people() -> None:
    assert describe(metrics(120), 400) == "step 120/400  loss 4.310  7,030 tokens/s  MFU 61%  0:58 left"


def test_without_a_terminal_the_first_and_the_last_step_are_lines() -> None:
    output = io.StringIO()
    with training_view("nl", 3, Console(file=output)) as show:
        for step in (1, 2, 3):
            show(metrics(step))
    assert [line.split("  ")[2] for line in output.getvalue().splitlines()] == ["step 1/3", "step 3/3"]
