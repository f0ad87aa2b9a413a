"""The training section: loss curves of all stages over tokens, a table of stages, and their gates.

Curves are drawn from every step in `observed/metrics.jsonl`: the mean of neighbouring steps, with
the unsmoothed losses behind. No value is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_jsonl
from components.core.store import Store
from components.report.charts import LineChart, Point, Series
from components.report.formatting import count, duration, percent, three_digits
from components.report.page import Section, Statement, section
from components.report.results import (
    METRICS,
    RunResults,
    StageGateResult,
    attempts_note,
    build_seconds,
    stage_title,
)
from components.report.table import (
    EMPTY,
    Cell,
    Table,
    Tone,
    Value,
    sources_of,
    stage_cell,
    table,
)

_NUM_SMOOTHED_POINTS = 40
"""Points of a smoothed curve: about 2 per 100 pixels. Assumption: enough to read it."""
_NUM_RAW_POINTS = 400
"""Points of the unsmoothed curve; neighbouring points are closer than a pixel."""
_NUMBERS = (
    "steps",
    "tokens",
    "first loss",
    "final loss",
    "peak learning rate",
    "tokens/s",
    "MFU",
    "time",
)
"""The columns of the table of stages after the stage."""

Steps = list[dict[str, Any]]


def training_section(results: RunResults, store: Store) -> Section:
    """The loss curves and the table of stages."""
    stages = {stage: results.checkpoints[stage] for stage in results.stages}
    steps = {
        stage: list(read_jsonl(store.fetch_verified(artifact) / METRICS))
        for stage, artifact in stages.items()
    }
    first = f"; the first stage starts from {results.initial.name}" if results.initial else ""
    lead = (
        "Each later stage starts from the weights of an earlier stage, with a new warm-up and "
        f"another corpus{first}."
    )
    if not stages:
        missing = Statement(None, "No stage was trained in this run.")
        return section("training", "Training", lead, missing)
    chart = _loss_chart(stages, steps)
    stage_table = _stage_table(stages, steps, store)
    gate_table = _gate_table(results.stage_gates)
    return section("training", "Training", lead, chart, stage_table, gate_table)


def _loss_chart(stages: dict[str, Artifact], steps: dict[str, Steps]) -> LineChart | None:
    series = []
    start = 0.0
    for stage in stages:
        if steps[stage]:
            series.append(_series(stage, steps[stage], start))
            start += steps[stage][-1]["tokens"]
    if not series:
        return None
    ranges = "; ".join(
        f"{line.name} from {line.faint[0][0][1]:.2f} to {line.points[-1].y:.2f}" for line in series
    )
    return LineChart(
        title="Training loss over the stages",
        description=f"Cross-entropy per token against trained tokens. {ranges}.",
        x_label="trained tokens, all stages",
        y_label="loss, nats per token",
        series=tuple(series),
        caption="Strong: mean of neighbouring steps. Faint: single steps. The loss jumps where the "
        "corpus changes.",
        sources=sources_of(stages.values()),
    )


def _series(stage: str, steps: Steps, start: float) -> Series:
    points = []
    for group in _groups(steps, _NUM_SMOOTHED_POINTS):
        tokens = fmean(step["tokens"] for step in group)
        loss = fmean(step["loss"] for step in group)
        label = (
            f"{stage_title(stage)} step {group[-1]['step']:,}: loss {loss:.3f} at "
            f"{count(start + tokens)} tokens"
        )
        points.append(Point(x=start + tokens, y=loss, label=label))
    first_steps = [group[0] for group in _groups(steps, _NUM_RAW_POINTS)]
    raw = tuple((start + step["tokens"], float(step["loss"])) for step in first_steps)
    return Series(stage=stage, name=stage_title(stage), points=tuple(points), faint=(raw,))


def _groups(steps: Steps, max_groups: int) -> list[Steps]:
    """Neighbouring steps in at most `max_groups` groups of nearly equal size."""
    num_groups = min(max_groups, len(steps))
    bounds = [len(steps) * index // num_groups for index in range(num_groups + 1)]
    return [steps[low:high] for low, high in pairwise(bounds)]


def _stage_table(stages: dict[str, Artifact], steps: dict[str, Steps], store: Store) -> Table:
    num_parameters = next(iter(stages.values())).statistics.get("num_parameters")
    size = f", {count(num_parameters)} parameters" if isinstance(num_parameters, int) else ""
    return table(
        f"Training stages{size}",
        ["stage", *_NUMBERS],
        [_row(stage, artifact, steps[stage], store) for stage, artifact in stages.items()],
        stages.values(),
        footnote="Tokens/s and MFU are medians over steps. MFU is a fraction of the peak below it, "
        "which all ranks together reached in a short matrix-product benchmark when the stage was "
        "started, or in a faster step. A busy machine reaches a lower peak: compare the MFU of "
        "two stages only if their peaks are equal.",
    )


def _gate_table(gates: Sequence[StageGateResult]) -> Table | None:
    """The decisions at the gates between stages; None if the recipe has no gate."""
    if not gates:
        return None
    rows = []
    for gate in gates:
        tone: Tone = "good" if gate.outcome == "passed" else "plain"
        rows.append(
            (
                stage_cell(gate.stage),
                Cell(gate.outcome, tone=tone),
                "; ".join(gate.requirements) or None,
                gate.decided_by,
                gate.decided_at,
                gate.reason or None,
            )
        )
    columns = ["after stage", "result", "requirements", "decided by", "time", "reason"]
    return table("Gates between stages", columns, rows, num_text_columns=len(columns))


def _row(stage: str, checkpoint: Artifact, steps: Steps, store: Store) -> tuple[Value, ...]:
    name = stage_cell(stage, subtext=checkpoint.name)
    if not steps:
        return (name, *[None] * len(_NUMBERS))
    first, last = steps[0], steps[-1]
    seconds = build_seconds(checkpoint, store)
    return (
        name,
        last["step"],
        Cell(count(last["tokens"]), title=f"{last['tokens']:,} tokens"),
        f"{first['loss']:.3f}",
        Cell(f"{last['loss']:.3f}", title=repr(last["loss"])),
        f"{max(step['learning_rate'] for step in steps):.1e}",
        _median([step.get("tokens_per_s") for step in steps], count),
        replace(_median([step.get("mfu") for step in steps], percent), subtext=_peak(steps)),
        None if seconds is None else Cell(duration(seconds), subtext=attempts_note(checkpoint)),
    )


def _peak(steps: Steps) -> str:
    """The denominator of MFU; each attempt of a stage has its own."""
    peaks = sorted({float(step["peak_flops"]) / 1e9 for step in steps if step.get("peak_flops")})
    if not peaks:
        return "of an unknown peak"
    lowest, highest = three_digits(peaks[0]), three_digits(peaks[-1])
    return f"of {lowest} GFLOP/s" if lowest == highest else f"of {lowest} to {highest} GFLOP/s"


def _median(values: Sequence[float | None], formatted: Callable[[float], str]) -> Cell:
    measured = [value for value in values if value is not None]
    return Cell(formatted(median(measured))) if measured else EMPTY
