"""The MTPB section: multi-turn against single-turn pass rates beside the paper's, and perplexities.

Multi-turn and single-turn are shown side by side, because their difference is the paper's claim.
If a run has no single-turn samples, their columns and rows are absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.core.store import Store
from components.evaluation.benchmarks.mtpb import EASY, HARD, MULTI
from components.report.benchmark_results import (
    INTERVALS,
    PAPER_COLUMNS,
    PROMPT_MODES,
    UNVERIFIED,
    BenchmarkResults,
    Result,
    benchmark_section,
    interval_cell,
    outcome_tables,
    paper_cells,
    paper_values,
    percent_cell,
    protocol_summary,
    score_cell,
)
from components.report.charts import DotChart
from components.report.formatting import natural_order, three_digits
from components.report.page import Section
from components.report.results import RunResults, stage_title
from components.report.table import Cell, Column, Table, Value, group, stage_cell, table

_DIFFICULTIES = ("hard", "medium", "easy")

Rates = Mapping[tuple[str, str], Mapping[str, float]]
"""Pass rates of groups of problems, by stage and prompt mode."""


def mtpb_section(results: RunResults, store: Store) -> Section:
    """MTPB, or why it was not run."""
    return benchmark_section(
        results,
        store,
        "mtpb",
        "Programs that are written over several turns of a conversation, or in a single turn from "
        "all prompts joined, and graded by the last value that they print.",
        lambda benchmark: [
            _rate_table(benchmark),
            _perplexity_table(benchmark),
            *_by_difficulty(benchmark),
            _group_table(benchmark, "category", "category", "Pass rate in percent by category"),
            _group_table(
                benchmark, "num_turns", "turns", "Pass rate in percent by number of turns"
            ),
            *outcome_tables(benchmark),
            _problem_table(benchmark),
        ],
    )


def _stages_and_modes(benchmark: BenchmarkResults) -> Iterator[tuple[str, Result, str]]:
    """Every stage with each prompt mode of its samples."""
    for stage, result in benchmark.by_stage.items():
        yield from ((stage, result, mode) for mode in PROMPT_MODES if mode in result["sets"])


def _rate_table(benchmark: BenchmarkResults) -> Table:
    paper_rows = [row for row in paper_values("mtpb") if row["family"] == "codegen"]
    rows: list[list[Value]] = []
    for stage, result, mode in _stages_and_modes(benchmark):
        name = f"pass_rate_{mode}"
        interval = interval_cell(result.get(f"{name}_low"), result.get(f"{name}_high"))
        solvable = percent_cell(result.get(f"pass_rate_solvable_{mode}"))
        strict = percent_cell(result.get(f"pass_rate_strict_{mode}"))
        rows_of_mode = [row for row in paper_rows if row["turns"] == mode]
        quoted = paper_cells(rows_of_mode, stage, "pass_rate")
        rate = score_cell(result, result.get(name))
        name_cell = stage_cell(stage, PROMPT_MODES[mode])
        rows.append([name_cell, rate, interval, solvable, strict, *quoted])
    columns = group("this run", "all cases", "95 % interval", "solvable cases", "strict")
    result = next(iter(benchmark.by_stage.values()))
    num_cases = result["num_problems"] * result["num_cases"]
    return table(
        "Pass rate in percent",
        ["", *columns, *PAPER_COLUMNS],
        rows,
        benchmark.artifacts,
        footnote=f"{protocol_summary(benchmark)} {INTERVALS} Solvable: without the cases that no "
        f"correct program can pass because of defects in the file; {result['num_solvable']} of "
        f"{num_cases} cases are solvable. Strict: all cases, without answers that pass by the "
        "official rules only because they are converted to another kind, such as an empty pandas "
        f"Series. The paper: {paper_values('mtpb', 'metric')}. {UNVERIFIED}",
    )


def _perplexity_table(benchmark: BenchmarkResults) -> Table:
    quotes = paper_values("mtpb", "prompt_perplexity")
    rows: list[list[Value]] = []
    for stage, result, mode in _stages_and_modes(benchmark):
        perplexities = result["perplexity"][mode]
        cells = [_perplexity(perplexities[subset]) for subset in ("all", "passed", "failed")]
        name = stage_cell(stage, PROMPT_MODES[mode])
        rows.append([name, *cells, *paper_cells(quotes, stage, mode)])
    return table(
        "Perplexity of the prompts",
        ["", *group("this run", "all samples", "passed", "failed"), *PAPER_COLUMNS],
        rows,
        benchmark.artifacts,
        footnote="exp of the mean negative log-likelihood per prompt token, given all previous "
        f"tokens; mean over samples. Lower is better. {UNVERIFIED}",
    )


def _perplexity(value: float | None) -> Cell | None:
    return None if value is None else Cell(three_digits(value), title=repr(value))


def _by_difficulty(benchmark: BenchmarkResults) -> tuple[Table | DotChart, ...]:
    """Multi-turn against single-turn by the difficulty of a problem for the evaluated model."""
    rows: list[list[Value]] = []
    dots: list[tuple[str, dict[str, float]]] = []
    for stage, result in benchmark.executed.items():
        by_mode = {
            mode: result["rates"][mode]["difficulty"]
            for mode in PROMPT_MODES
            if mode in result["rates"]
        }
        for difficulty in (name for name in _DIFFICULTIES if name in by_mode[MULTI]):
            rates = [by_mode.get(mode, {}).get(difficulty) for mode in PROMPT_MODES]
            name = stage_cell(stage, difficulty)
            num_problems = result["num_by_difficulty"][difficulty]
            rows.append([name, num_problems, *map(percent_cell, rates), _gain(*rates)])
            percents = {PROMPT_MODES[mode]: 100 * by_mode[mode][difficulty] for mode in by_mode}
            dots.append((name.text, percents))
    if not rows:
        return ()
    rates_table = _difficulty_table(benchmark, rows)
    if not any(any(percents.values()) for _, percents in dots):
        return (rates_table,)
    return _difficulty_chart(dots), rates_table


def _difficulty_chart(dots: list[tuple[str, dict[str, float]]]) -> DotChart:
    styles = dict.fromkeys(style for _, row in dots for style in row)
    return DotChart(
        title="Pass rate by difficulty, multi-turn against single-turn",
        description="One row per stage and difficulty, one dot per prompt mode; further right is "
        "better.",
        x_label="pass rate, percent",
        rows=tuple(dots),
        names={style: style for style in styles},
    )


def _difficulty_table(benchmark: BenchmarkResults, rows: list[list[Value]]) -> Table:
    return table(
        "Pass rate in percent by difficulty",
        ["", "problems", *PROMPT_MODES.values(), "gain"],
        rows,
        benchmark.artifacts,
        footnote=f"Hard: less than {100 * HARD:.0f} % of a problem's multi-turn samples pass; "
        f"easy: more than {100 * EASY:.0f} %. The paper uses the mean over its models; this table "
        "uses the model's own rate, so the groups of two stages contain different problems. Gain: "
        "multi-turn minus single-turn, in percentage points.",
    )


def _gain(multi_turn: float | None, single_turn: float | None) -> str | None:
    if multi_turn is None or single_turn is None:
        return None
    return f"{100 * (multi_turn - single_turn):+.2f}"


def _rates(benchmark: BenchmarkResults, division: str) -> Rates:
    return {
        (stage, mode): result["rates"][mode][division]
        for stage, result, mode in _stages_and_modes(benchmark)
        if result["executed"]
    }


def _group_table(
    benchmark: BenchmarkResults, division: str, head: str, caption: str, *, folded: bool = False
) -> Table | None:
    """Pass rates by category or number of turns; none without executed samples."""
    rates = _rates(benchmark, division)
    if not rates:
        return None
    names = sorted({name for by_name in rates.values() for name in by_name}, key=natural_order)
    columns = (Column(PROMPT_MODES[mode], group=stage_title(stage)) for stage, mode in rates)
    rows = (
        [name, *(percent_cell(by_name.get(name)) for by_name in rates.values())] for name in names
    )
    return table(caption, [head, *columns], rows, benchmark.artifacts, folded=folded)


def _problem_table(benchmark: BenchmarkResults) -> Table | None:
    """The pass rate of each problem over its cases."""
    rates = _rates(benchmark, "problem")
    names = {name for by_name in rates.values() for name in by_name}
    solved = sum(any(by_name.get(name) for by_name in rates.values()) for name in names)
    caption = f"Pass rate in percent per problem ({solved} of {len(names)} problems solved)"
    return _group_table(benchmark, "problem", "problem", caption, folded=True)
