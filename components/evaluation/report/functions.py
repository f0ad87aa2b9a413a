"""HumanEval on the page: pass@k beside the paper's, its curves, what became of the samples, and every problem.

One decision: where there are several temperatures, the score is the best of them for each k, as the paper reports it; each
temperature's own stands beside it. Curves are of the same estimator over the same counts, for more values of k.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from components.core.store import Store
from components.evaluation.report.cells import NOTHING, Cell, Column, Table
from components.evaluation.report.left_out import left_out_for
from components.evaluation.report.measured import (
    INTERVALS,
    UNVERIFIED,
    Measured,
    Result,
    executed_where,
    how,
    in_percent,
    interval,
    measured,
    not_run,
    ordered_sets,
    paper,
    paper_columns,
    quoted,
    score,
)
from components.evaluation.report.outcomes import outcome_tables
from components.evaluation.report.page import Block, Section
from components.evaluation.report.plots import Curve, CurveChart
from components.evaluation.report.results import STAGE_NAMES, RunResults
from components.evaluation.scoring.statistics import mean_pass_at_k

_NUM_POINTS = 40
"""Points of a curve: all k up to it, beyond it about evenly on the logarithmic axis. Assumption: enough to read it."""


def humaneval_section(results: RunResults, store: Store) -> Section:
    """HumanEval, or why it was not run."""
    ours, unseen = measured(results, store, "humaneval"), left_out_for(results, "humaneval")
    lead = "Programs written for 164 documented functions, run against hidden tests. pass@k: the chance that one of k passes."
    blocks: tuple[Block, ...] = (not_run(results, "humaneval"), *unseen)
    if ours.results:
        tables = outcome_tables(ours)
        blocks = (
            *executed_where(ours),
            _scores(ours),
            *unseen,
            *_curves(ours),
            *tables,
            *_problems(ours),
        )
    return Section(anchor="humaneval", title="HumanEval", lead=lead, blocks=blocks)


def _scores(ours: Measured) -> Table:
    temperatures = _temperatures(ours)
    several = temperatures if len(temperatures) > 1 else ()
    paper_rows = [row for row in paper("humaneval") if row["family"] == "codegen"]
    rows = []
    for stage, result in ours.results.items():
        for k in sorted(int(k) for k in result["pass_at_k"]) or [
            1
        ]:  # A row even if nothing was executed, for the reason.
            name = Cell(text=f"{STAGE_NAMES[stage]} pass@{k}", mark=stage)
            here = (*_best(result, str(k), bool(several)), *_each(result, str(k), several))
            rows.append((name, *here, *quoted(paper_rows, stage, f"pass@{k}")))
    best = ("best", "95 % interval", "at") if several else ("this run", "95 % interval")
    chosen = " That the best temperature was chosen is not in them." if several else ""
    return Table(
        caption="pass@k in percent",
        columns=(
            Column(title="", numeric=False),
            *(Column(title=title, group="this run" if several else "") for title in best),
            *(Column(title=f"{temperature:g}", group="at temperature") for temperature in several),
            *paper_columns(),
        ),
        rows=tuple(rows),
        sources=ours.sources,
        footnote=f"{how(ours)} {INTERVALS}{chosen} The paper: {paper('humaneval', 'metric')}. {UNVERIFIED}",
    )


def _temperatures(ours: Measured) -> tuple[float, ...]:
    return tuple(
        sorted(
            {
                one["temperature"]
                for result in ours.results.values()
                for one in result["sets"].values()
            }
        )
    )


def _best(result: Result, k: str, several: bool) -> tuple[Cell, ...]:
    """The score, its interval and, where there was a choice, the temperature at which it was reached."""
    best: Mapping[str, Any] = result["pass_at_k"].get(k, {})
    cells = (score(result, best.get("estimate")), interval(best.get("low"), best.get("high")))
    if not several:
        return cells
    return (
        *cells,
        Cell(text=f"{result['sets'][best['set']]['temperature']:g}") if best else NOTHING,
    )


def _each(result: Result, k: str, temperatures: Iterable[float]) -> tuple[Cell, ...]:
    """The score at every temperature, with its interval when pointed at."""
    found = {one["temperature"]: one["pass_at_k"].get(k) for one in result["sets"].values()}
    estimates = (found.get(temperature) for temperature in temperatures)
    return tuple(
        Cell(text=in_percent(one["estimate"]), title=interval(one["low"], one["high"]).text)
        if one
        else NOTHING
        for one in estimates
    )


def _curves(ours: Measured) -> tuple[CurveChart, ...]:
    """Of each stage pass@k for k from 1 to n; nothing where there is one sample a problem."""
    curves = tuple(_curve(stage, result) for stage, result in ours.executed.items())
    if max((len(one.points) for one in curves), default=0) < 2:
        return ()
    ends = (
        f"{one.name} {one.points[0][1]:.2f} \u2192 {one.points[-1][1]:.2f} at k = {one.points[-1][0]}"
        for one in curves
    )
    faint = " Faint: single temperatures." if any(one.faint for one in curves) else ""
    return (
        CurveChart(
            title="pass@k as k grows",
            description=f"The chance that one of k programs passes, against k. {'; '.join(ends)}.",
            x_name="k",
            x_label="k, programs that are tried",
            y_label="pass@k, percent",
            curves=curves,
            caption=f"Strong: the best temperature for each k.{faint} The less it rises, the more alike the samples are.",
            sources=ours.sources,
        ),
    )


def _curve(stage: str, result: Result) -> Curve:
    lines = [
        _line(one["num_samples"], list(one["passes"].values()))
        for one in ordered_sets(result).values()
    ]
    best: dict[int, float] = {}
    for line in lines:
        for k, value in line:
            best[k] = max(value, best.get(k, 0.0))
    points = tuple(sorted(best.items()))
    return Curve(
        mark=stage,
        name=STAGE_NAMES[stage],
        points=points,
        faint=tuple(lines) if len(lines) > 1 else (),
    )


def _line(num_samples: int, passes: list[int]) -> tuple[tuple[int, float], ...]:
    return tuple(
        (int(k), 100 * value)
        for k, value in mean_pass_at_k(num_samples, passes, _ks(num_samples)).items()
    )


def _ks(num_samples: int) -> list[int]:
    """The k of a curve's points, 1 and `num_samples` among them."""
    if num_samples <= _NUM_POINTS:
        return list(range(1, num_samples + 1))
    return sorted(
        {round(num_samples ** (place / (_NUM_POINTS - 1))) for place in range(_NUM_POINTS)}
    )


def _problems(ours: Measured) -> tuple[Table, ...]:
    """How many samples of each problem passed, of every stage and set."""
    sets = [
        (stage, one)
        for stage, result in ours.executed.items()
        for one in ordered_sets(result).values()
        if one["passes"]
    ]
    if not sets:
        return ()
    names = sorted({name for _, one in sets for name in one["passes"]}, key=natural)
    several = len(_temperatures(ours)) > 1
    columns = (
        Column(
            title=f"at {one['temperature']:g}" if several else STAGE_NAMES[stage],
            group=STAGE_NAMES[stage] if several else "",
        )
        for stage, one in sets
    )
    rows = tuple((Cell(text=name), *(_passes(one, name) for _, one in sets)) for name in names)
    solved = sum(any(one["passes"].get(name) for _, one in sets) for name in names)
    return (
        Table(
            caption=f"Every problem: how many of its samples passed ({solved} of {len(names)} problems were solved at all)",
            columns=(Column(title="problem", numeric=False), *columns),
            rows=rows,
            sources=ours.sources,
            folded=True,
        ),
    )


def _passes(one: Result, name: str) -> Cell:
    passed = one["passes"].get(name)
    if passed is None:
        return NOTHING
    return Cell(text=f"{passed:,} of {one['num_samples']:,}", tone="strong" if passed else "quiet")


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them: `HumanEval/2` before `HumanEval/10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
