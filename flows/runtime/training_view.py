"""The live view of a training stage: a bar over a table of figures on a terminal, a plain line every ten seconds elsewhere.

Every figure is one of `metrics.jsonl`; nothing is computed here. Not covered: curves, which MLflow draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:  # It would import torch.
    from components.training.metrics import StepMetrics

_LINE_EVERY_S = 10.0


def describe(step: StepMetrics, total: int) -> str:
    """`step 120/400  loss 4.310  7,030 tokens/s  MFU 61 %  0:58 left`."""
    minutes, seconds = divmod(round(step.time_left_s), 60)
    loss = "left out" if step.skipped else f"loss {step.loss:.3f}"
    speed = f"{step.tokens_per_s:,.0f} tokens/s  MFU {step.mfu:.0%}"
    return f"step {step.step}/{total}  {loss}  {speed}  {minutes}:{seconds:02d} left"


def metric_rows(step: StepMetrics, held_out: dict[str, float | None]) -> dict[str, str]:
    """What the table shows of a step; `held_out` is what was measured last, not necessarily after this step."""
    shown = {
        "bits per byte": f"{step.bits_per_byte:.3f}" if step.bits_per_byte else "-",
        "learning rate": f"{step.learning_rate:.2e}",
        "gradient norm": f"{step.grad_norm:.2f}" if step.grad_norm is not None else "-",
        "tokens": f"{step.tokens:,}",
        "waited for data": f"{step.data_wait_s * 1000:.0f} ms",
        "for a checkpoint": f"{step.checkpoint_wait_s:.1f} s",
    }
    if step.peak_memory_bytes:
        shown["memory of a rank"] = f"{step.peak_memory_bytes / 1e9:.1f} GB"
    return shown | {
        f"held-out {language}": "not finite" if value is None else f"{value:.3f}"
        for language, value in held_out.items()
    }


@contextmanager
def training_view(
    stage: str, total: int, console: Console
) -> Iterator[Callable[[StepMetrics], None]]:
    """Show the steps of the block as they come."""
    if not console.is_terminal:
        yield _lines(stage, total, console)
        return
    bar = Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[line]}"),
    )
    task = bar.add_task(stage, total=total, line="starting")
    held_out: dict[str, float | None] = {}
    with Live(bar, console=console, transient=True) as live:

        def show(step: StepMetrics) -> None:
            held_out.update(step.held_out or {})
            bar.update(task, completed=step.step, line=describe(step, total))
            live.update(Group(bar, _table(metric_rows(step, held_out))))

        yield show


def _lines(stage: str, total: int, console: Console) -> Callable[[StepMetrics], None]:
    last = 0.0

    def show(step: StepMetrics) -> None:
        nonlocal last
        if step.step == total or time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            console.print(f"  {stage}  {describe(step, total)}", soft_wrap=True)

    return show


def _table(shown: dict[str, str]) -> Table:
    """Two pairs of name and figure in a row."""
    table = Table.grid(padding=(0, 2, 0, 2))
    cells = [cell for name, figure in shown.items() for cell in (f"[dim]{name}[/]", figure)]
    for start in range(0, len(cells), 4):
        table.add_row(*cells[start : start + 4])
    return table
