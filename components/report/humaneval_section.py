"""The sections of HumanEval, and of the benchmarks that are evaluated by its protocol: pass@k, its
curves, sample outcomes, and every problem. HumanEval's scores are shown beside the paper's.

With several temperatures the score is the best of them for each k, as in the paper; each
temperature's score is shown beside it. Curves use the same estimator on the same counts for more k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.core.store import Store
from components.evaluation.scoring.score_statistics import mean_pass_at_k
from components.report.benchmark_results import (
    INTERVALS,
    PAPER_COLUMNS,
    UNVERIFIED,
    BenchmarkResults,
    Result,
    benchmark_section,
    in_percent,
    interval_cell,
    outcome_tables,
    paper_cells,
    paper_values,
    protocol_summary,
    score_cell,
)
from components.report.charts import LineChart, Point, Series
from components.report.formatting import natural_order
from components.report.page import Section
from components.report.results import RunResults, stage_title
from components.report.table import Cell, Column, Table, Value, group, sources_of, table

_HUMANEVAL = "humaneval"
_NUM_POINTS = 40
"""Points of a curve: every k up to it, then evenly on the logarithmic axis. Assumption: enough to
read it."""


def humaneval_section(results: RunResults, store: Store) -> Section:
    """HumanEval, or why it was not run."""
    lead = "Programs for 164 documented functions, executed against hidden tests."
    return _pass_at_k_section(results, store, _HUMANEVAL, lead)


def custom_section(results: RunResults, store: Store, benchmark: str) -> Section:
    """A benchmark that is not in the paper, or why it was not run."""
    lead = "Programs for the problems of the recipe's file, by the protocol of HumanEval."
    return _pass_at_k_section(results, store, benchmark, lead)


def _pass_at_k_section(results: RunResults, store: Store, benchmark: str, lead: str) -> Section:
    return benchmark_section(
        results,
        store,
        benchmark,
        f"{lead} pass@k: probability that at least one of k samples passes.",
        lambda benchmark: [
            _score_table(benchmark),
            _curves(benchmark),
            *outcome_tables(benchmark),
            _problem_table(benchmark),
        ],
    )


def _score_table(benchmark: BenchmarkResults) -> Table:
    temperatures = _temperatures(benchmark)
    several = temperatures if len(temperatures) > 1 else ()
    in_paper = benchmark.name == _HUMANEVAL
    paper_rows = [row for row in paper_values(_HUMANEVAL) if row["family"] == "codegen"]
    rows: list[list[Value]] = []
    for stage, result in benchmark.by_stage.items():
        # If nothing was executed, a row for the reason.
        for k in sorted(map(int, result["pass_at_k"])) or [1]:
            name = Cell(f"{stage_title(stage)} pass@{k}", stage=stage)
            scores = _best(result, str(k), bool(several))
            scores += _by_temperature(result, str(k), several)
            quoted = paper_cells(paper_rows, stage, f"pass@{k}") if in_paper else []
            rows.append([name, *scores, *quoted])
    columns = [Column("this run"), Column("95 % interval")]
    if several:
        columns = group("this run", "best", "95 % interval", "at")
        columns += group("at temperature", *(f"{temperature:g}" for temperature in several))
    selection = " They do not include the choice of the best temperature." if several else ""
    footnote = f"{protocol_summary(benchmark)} {INTERVALS}{selection}"
    if in_paper:
        columns = [*columns, *PAPER_COLUMNS]
        footnote += f" The paper: {paper_values(_HUMANEVAL, 'metric')}. {UNVERIFIED}"
    return table("pass@k in percent", ["", *columns], rows, benchmark.artifacts, footnote=footnote)


def _temperatures(benchmark: BenchmarkResults) -> tuple[float, ...]:
    sets = [
        sample_set
        for result in benchmark.by_stage.values()
        for sample_set in result["sets"].values()
    ]
    return tuple(sorted({sample_set["temperature"] for sample_set in sets}))


def _best(result: Result, k: str, several: bool) -> list[Value]:
    """The score, its interval and, with several temperatures, the temperature that reached it."""
    best: Mapping[str, Any] = result["pass_at_k"].get(k, {})
    cells: list[Value] = [
        score_cell(result, best.get("estimate")),
        interval_cell(best.get("low"), best.get("high")),
    ]
    if several:
        cells.append(f"{result['sets'][best['set']]['temperature']:g}" if best else None)
    return cells


def _by_temperature(result: Result, k: str, temperatures: Iterable[float]) -> list[Value]:
    """The score at each temperature, with its interval as tooltip."""
    scores = {
        sample_set["temperature"]: sample_set["pass_at_k"].get(k)
        for sample_set in result["sets"].values()
    }
    cells: list[Value] = []
    for temperature in temperatures:
        score = scores.get(temperature)
        interval = interval_cell(score["low"], score["high"]) if score else None
        if score and interval:
            cells.append(Cell(in_percent(score["estimate"]), title=interval.text))
        else:
            cells.append(None)
    return cells


def _curves(benchmark: BenchmarkResults) -> LineChart | None:
    """pass@k of each stage for k from 1 to n; no chart with a single sample per problem."""
    curves = tuple(_curve(stage, result) for stage, result in benchmark.executed.items())
    if max((len(curve.points) for curve in curves), default=0) < 2:
        return None
    ends = [(curve.name, curve.points[0].y, curve.points[-1]) for curve in curves]
    ranges = "; ".join(
        f"{name} {first:.2f} \u2192 {last.y:.2f} at k = {last.x:.0f}" for name, first, last in ends
    )
    faint = " Faint: single temperatures." if any(curve.faint for curve in curves) else ""
    return LineChart(
        title="pass@k by k",
        description=f"Probability that at least one of k samples passes, against k. {ranges}.",
        x_name="k",
        x_label="k, samples per problem",
        y_label="pass@k, percent",
        series=curves,
        log_x=True,
        caption=f"Strong: the best temperature for each k.{faint} A flat curve means that the "
        "samples are similar.",
        sources=sources_of(benchmark.artifacts),
    )


def _curve(stage: str, result: Result) -> Series:
    lines = [
        _line(sample_set["num_samples"], list(sample_set["passes"].values()))
        for sample_set in result["sets"].values()
    ]
    best: dict[float, float] = {}
    for line in lines:
        for k, value in line:
            best[k] = max(value, best.get(k, 0.0))
    name = stage_title(stage)
    points = tuple(
        Point(x=k, y=value, label=f"{name} {value:.2f}") for k, value in sorted(best.items())
    )
    faint = tuple(lines) if len(lines) > 1 else ()
    return Series(stage=stage, name=name, points=points, faint=faint)


def _line(num_samples: int, passes: list[int]) -> tuple[tuple[float, float], ...]:
    ks = list(range(1, num_samples + 1))
    if num_samples > _NUM_POINTS:
        exponents = [index / (_NUM_POINTS - 1) for index in range(_NUM_POINTS)]
        ks = sorted({round(num_samples**exponent) for exponent in exponents})
    estimates = mean_pass_at_k(num_samples, passes, ks)
    return tuple((float(k), 100 * value) for k, value in estimates.items())


def _problem_table(benchmark: BenchmarkResults) -> Table | None:
    """Passed samples of each problem by stage and set."""
    sets = [
        (stage, sample_set) for stage, _, sample_set in benchmark.sets() if sample_set["passes"]
    ]
    if not sets:
        return None
    names = sorted(
        {name for _, sample_set in sets for name in sample_set["passes"]}, key=natural_order
    )
    solved = sum(any(sample_set["passes"].get(name) for _, sample_set in sets) for name in names)
    columns = [Column(stage_title(stage)) for stage, _ in sets]
    if len(_temperatures(benchmark)) > 1:
        columns = [
            Column(f"at {record['temperature']:g}", group=stage_title(stage))
            for stage, record in sets
        ]
    return table(
        f"Passed samples per problem ({solved} of {len(names)} problems solved)",
        ["problem", *columns],
        [[name, *(_passed(sample_set, name) for _, sample_set in sets)] for name in names],
        benchmark.artifacts,
        folded=True,
    )


def _passed(sample_set: Result, name: str) -> Cell | None:
    passed = sample_set["passes"].get(name)
    if passed is None:
        return None
    text = f"{passed:,} of {sample_set['num_samples']:,}"
    return Cell(text, tone="strong" if passed else "quiet")
