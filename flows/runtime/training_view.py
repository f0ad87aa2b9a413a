"""Live view of a training stage: progress bar and metric table on a terminal, else plain lines.

Metrics come from `metrics.jsonl`. On a terminal, Rich estimates the remaining time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:  # Imports torch.
    from components.training.metrics import StepMetrics

_LINE_INTERVAL_S = 10.0
"""Time between two lines if the output is no terminal."""


def format_step(step: StepMetrics, num_steps: int) -> str:
    """Return, for example, `step 120/400  loss 4.310  7,030 tokens/s  MFU 61%  ETA 0:00:58`."""
    eta = timedelta(seconds=round(step.time_left_s))
    return f"step {step.step}/{num_steps}  {_format_speed(step)}  ETA {eta}"


def _format_speed(step: StepMetrics) -> str:
    loss = "skipped" if step.skipped else f"loss {step.loss:.3f}"
    return f"{loss}  {step.tokens_per_s:,.0f} tokens/s  MFU {step.mfu:.0%}"


def metric_rows(step: StepMetrics, held_out: dict[str, float | None]) -> dict[str, str]:
    """Return the rows of the metric table; `held_out` is the latest evaluation by language."""
    rows = {
        "bits per byte": f"{step.bits_per_byte:.3f}" if step.bits_per_byte else "-",
        "learning rate": f"{step.learning_rate:.2e}",
        "gradient norm": f"{step.grad_norm:.2f}" if step.grad_norm is not None else "-",
        "tokens": f"{step.tokens:,}",
        "data wait": f"{step.data_wait_s * 1000:.0f} ms",
        "checkpoint wait": f"{step.checkpoint_wait_s:.1f} s",
    }
    if step.peak_memory_bytes:
        rows["memory per rank"] = f"{step.peak_memory_bytes / 1e9:.1f} GB"
    for language, value in held_out.items():
        rows[f"held-out {language}"] = "not finite" if value is None else f"{value:.3f}"
    return rows


@contextmanager
def training_view(
    stage: str, num_steps: int, console: Console
) -> Iterator[Callable[[StepMetrics], None]]:
    """Yield a function that shows a step."""
    if not console.is_terminal:
        yield _line_printer(stage, num_steps, console)
        return
    progress = Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    task = progress.add_task(stage, total=num_steps, speed="starting")
    held_out: dict[str, float | None] = {}
    with Live(progress, console=console, transient=True) as live:

        def show(step: StepMetrics) -> None:
            held_out.update(step.held_out or {})
            progress.update(task, completed=step.step, speed=_format_speed(step))
            live.update(Group(progress, _metric_table(metric_rows(step, held_out))))

        yield show


def _line_printer(stage: str, num_steps: int, console: Console) -> Callable[[StepMetrics], None]:
    last_line_s = 0.0

    def show(step: StepMetrics) -> None:
        nonlocal last_line_s
        if step.step == num_steps or time.monotonic() - last_line_s >= _LINE_INTERVAL_S:
            last_line_s = time.monotonic()
            console.print(f"  {stage}  {format_step(step, num_steps)}", soft_wrap=True)

    return show


def _metric_table(rows: dict[str, str]) -> Table:
    """Return a table with two metrics per row."""
    table = Table.grid(padding=(0, 2, 0, 2))
    cells: list[str] = []
    for name, value in rows.items():
        cells += [f"[dim]{name}[/]", value]
    for start in range(0, len(cells), 4):
        table.add_row(*cells[start : start + 4])
    return table
