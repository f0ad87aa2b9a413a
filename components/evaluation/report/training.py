"""How the stages learnt: their loss on one axis of tokens, and a table of what each was given.

One decision: curves are drawn from every step's record in `observed/metrics.jsonl`, at most `_NUM_POINTS` per stage, each
the mean of as many consecutive steps as that takes; the unsmoothed losses stand faintly behind. No figure is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_jsonl
from components.core.store import Store
from components.evaluation.report.cells import NOTHING, Cell, Column, Source, Table
from components.evaluation.report.page import Block, Section, Verdict
from components.evaluation.report.plots import LineChart, Point, Series
from components.evaluation.report.results import STAGE_NAMES, RunResults
from components.evaluation.report.timing import METRICS, num_attempts, seconds_to_make
from components.evaluation.report.wording import count, duration, percent, three_digits

_NUM_POINTS = 40
"""Points of a smoothed curve, one or two per hundred pixels of its share of the chart. Assumption: enough to read it."""
_NUM_RAW = 400
"""Points of the faint curve behind; beyond one per pixel they cannot be told apart."""

Steps = list[dict[str, Any]]


def training_section(results: RunResults, store: Store) -> Section:
    """The loss curves and the table of stages."""
    stages = {stage: results.checkpoints[stage] for stage in results.stages}
    steps = {
        stage: list(read_jsonl(store.fetch_verified(one) / METRICS))
        for stage, one in stages.items()
    }
    blocks: tuple[Block, ...] = (Verdict(None, "No stage was trained in this run."),)
    if stages:
        blocks = (_chart(stages, steps), _table(stages, steps, store))
    first = f"the first from {results.initial.name}, " if results.initial else ""
    lead = f"Each stage starts from the weights of the one before, {first}with a new warm-up and another corpus."
    return Section(anchor="training", title="Training", lead=lead, blocks=blocks)


def _chart(stages: dict[str, Artifact], steps: dict[str, Steps]) -> LineChart:
    series, start = [], 0.0
    for stage in stages:
        series.append(_series(stage, steps[stage], start))
        start += steps[stage][-1]["tokens"] if steps[stage] else 0
    said = "; ".join(
        f"{one.name} from {one.raw[0][1]:.2f} to {one.points[-1].y:.2f}"
        for one in series
        if one.raw
    )
    return LineChart(
        title="Training loss over the stages",
        description=f"Cross-entropy per token against tokens seen. {said}.",
        x_label="tokens seen, all stages",
        y_label="loss, nats per token",
        series=tuple(series),
        caption="Strong: mean of neighbouring steps. Faint: single steps. A jump at a border is the change of corpus.",
        sources=tuple(Source.of(one) for one in stages.values()),
    )


def _series(stage: str, steps: Steps, start: float) -> Series:
    points = []
    for group in _groups(steps, _NUM_POINTS):
        tokens, loss = (
            fmean(step["tokens"] for step in group),
            fmean(step["loss"] for step in group),
        )
        label = f"{STAGE_NAMES[stage]} step {group[-1]['step']:,}: loss {loss:.3f} at {count(start + tokens)} tokens"
        points.append(Point(x=start + tokens, y=loss, label=label))
    raw = [
        (start + group[0]["tokens"], float(group[0]["loss"])) for group in _groups(steps, _NUM_RAW)
    ]
    return Series(mark=stage, name=STAGE_NAMES[stage], points=tuple(points), raw=tuple(raw))


def _groups(steps: Steps, num_groups: int) -> list[Steps]:
    """Neighbouring steps in at most `num_groups` groups of nearly equal size."""
    wanted = min(num_groups, len(steps))
    return [steps[len(steps) * i // wanted : len(steps) * (i + 1) // wanted] for i in range(wanted)]


_COLUMNS = (
    Column(title="stage", numeric=False),
    Column(title="steps"),
    Column(title="tokens"),
    Column(title="first loss"),
    Column(title="final loss"),
    Column(title="peak rate"),
    Column(title="tokens/s"),
    Column(title="MFU"),
    Column(title="time"),
)


def _table(stages: dict[str, Artifact], steps: dict[str, Steps], store: Store) -> Table:
    parameters = [one.statistics.get("num_parameters") for one in stages.values()]
    size = (
        f", {count(parameters[0])} parameters"
        if parameters and isinstance(parameters[0], int)
        else ""
    )
    return Table(
        caption=f"The stages{size}",
        columns=_COLUMNS,
        rows=tuple(_row(stage, one, steps[stage], store) for stage, one in stages.items()),
        sources=tuple(Source.of(one) for one in stages.values()),
        footnote="Tokens/s and MFU are medians over steps. MFU is the share of the peak below it: what the ranks together "
        "reached in a short probe of matrix products when that stage was started. A busy machine reaches less, so MFU of "
        "stages with unlike peaks cannot be compared.",
    )


def _row(stage: str, checkpoint: Artifact, steps: Steps, store: Store) -> tuple[Cell, ...]:
    name = Cell(text=STAGE_NAMES[stage], mark=stage, note=checkpoint.name)
    if not steps:
        return (name, *[NOTHING] * (len(_COLUMNS) - 1))
    seconds, attempts = seconds_to_make(checkpoint, store), num_attempts(checkpoint)
    return (
        name,
        Cell(text=f"{steps[-1]['step']:,}"),
        Cell(text=count(steps[-1]["tokens"]), title=f"{steps[-1]['tokens']:,} tokens"),
        Cell(text=f"{steps[0]['loss']:.3f}"),
        Cell(text=f"{steps[-1]['loss']:.3f}", title=repr(steps[-1]["loss"])),
        Cell(text=f"{max(step['learning_rate'] for step in steps):.1e}"),
        _median([step.get("tokens_per_s") for step in steps], count),
        replace(_median([step.get("mfu") for step in steps], percent), note=_peak(steps)),
        NOTHING
        if seconds is None
        else Cell(text=duration(seconds), note=f"{attempts} attempts" if attempts > 1 else ""),
    )


def _peak(steps: Steps) -> str:
    """The denominator of MFU; every attempt of a stage has its own."""
    peaks = sorted({float(step["peak_flops"]) / 1e9 for step in steps if step.get("peak_flops")})
    if not peaks:
        return "of a peak that was not noted"
    least, most = three_digits(peaks[0]), three_digits(peaks[-1])
    return f"of {least} GFLOP/s" if least == most else f"of {least} to {most} GFLOP/s"


def _median(values: Sequence[float | None], say: Any) -> Cell:
    known = [value for value in values if value is not None]
    return Cell(text=say(median(known))) if known else NOTHING
