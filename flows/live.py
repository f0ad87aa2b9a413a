"""The live line of a training stage: a bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:  # It would import torch.
    from components.training.metrics import StepMetrics

_LINE_EVERY_S = 10.0


def describe(step: StepMetrics, total: int) -> str:
    """`step 120/400  loss 4.310  7,030 tokens/s  MFU 61 %  0:58 left`."""
    minutes, seconds = divmod(round(step.time_left_s), 60)
    return (
        f"step {step.step}/{total}  loss {step.loss:.3f}  {step.tokens_per_s:,.0f} tokens/s  "
        f"MFU {step.mfu:.0%}  {minutes}:{seconds:02d} left"
    )


@contextmanager
def training_view(stage: str, total: int, console: Console) -> Iterator[Callable[[StepMetrics], None]]:
    """Show the steps of the block as they come."""
    if console.is_terminal:
        columns = (TextColumn("  {task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[line]}"))
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(stage, total=total, line="starting")
            yield lambda step: progress.update(bar, completed=step.step, line=describe(step, total))
        return
    last = 0.0

    def show(step: StepMetrics) -> None:
        nonlocal last
        if step.step == total or time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            console.print(f"  {stage}  {describe(step, total)}", soft_wrap=True)

    yield show
