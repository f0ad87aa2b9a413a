"""MTPB on the page: several turns against one, beside the paper's; perplexities; by difficulty, category and length.

One decision: several turns and one turn always stand side by side, since that they differ is the paper's claim. Where a run
asked for no single turn, its columns and rows are absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from components.core.store import Store
from components.evaluation.benchmarks.mtpb import EASY, HARD, MULTI, SINGLE
from components.evaluation.report.cells import NOTHING, Cell, Column, Table
from components.evaluation.report.functions import natural
from components.evaluation.report.left_out import left_out_for
from components.evaluation.report.measured import (
    INTERVALS,
    UNVERIFIED,
    WAYS,
    Measured,
    Result,
    executed_where,
    how,
    interval,
    measured,
    not_run,
    paper,
    paper_columns,
    quoted,
    score,
    share,
)
from components.evaluation.report.outcomes import outcome_tables
from components.evaluation.report.page import Block, Section
from components.evaluation.report.plots import DotChart
from components.evaluation.report.results import STAGE_NAMES, RunResults
from components.evaluation.report.wording import three_digits

_MARKS = {MULTI: "several", SINGLE: "one"}
"""In charts; `multi` is a stage's."""
_DIFFICULTIES = ("hard", "medium", "easy")


def mtpb_section(results: RunResults, store: Store) -> Section:
    """MTPB, or why it was not run."""
    ours, unseen = measured(results, store, "mtpb"), left_out_for(results, "mtpb")
    lead = (
        "Programs judged by the last value that they print, written over several turns of a conversation, or in one turn "
        "from all prompts joined."
    )
    blocks: tuple[Block, ...] = (not_run(results, "mtpb"), *unseen)
    if ours.results:
        tables = outcome_tables(ours)
        rates = (*_by_difficulty(ours), *_by(ours, "category"), *_by(ours, "num_turns"))
        blocks = (
            *executed_where(ours),
            _rates(ours),
            *unseen,
            _perplexities(ours),
            *rates,
            *tables,
            *_problems(ours),
        )
    return Section(anchor="mtpb", title="MTPB", lead=lead, blocks=blocks)


def _asked(ours: Measured) -> Iterator[tuple[str, Result, str]]:
    """Every stage with every way in which it was asked."""
    for stage, result in ours.results.items():
        yield from ((stage, result, way) for way in WAYS if way in result["sets"])


def _name(stage: str, way: str) -> Cell:
    return Cell(text=f"{STAGE_NAMES[stage]}, {WAYS[way]}", mark=stage)


def _rates(ours: Measured) -> Table:
    of_way = {
        way: [row for row in paper("mtpb") if row["family"] == "codegen" and row["turns"] == way]
        for way in WAYS
    }
    rows = tuple(
        (
            _name(stage, way),
            score(result, result.get(f"pass_rate_{way}")),
            interval(result.get(f"pass_rate_{way}_low"), result.get(f"pass_rate_{way}_high")),
            share(result.get(f"pass_rate_solvable_{way}")),
            *quoted(of_way[way], stage, "pass_rate"),
        )
        for stage, result, way in _asked(ours)
    )
    result = next(iter(ours.results.values()))
    num_cases = result["num_problems"] * result["num_cases"]
    return Table(
        caption="Pass rate in percent",
        columns=(
            Column(title="", numeric=False),
            *(
                Column(title=title, group="this run")
                for title in ("all cases", "95 % interval", "passable")
            ),
            *paper_columns(),
        ),
        rows=rows,
        sources=ours.sources,
        footnote=f"{how(ours)} {INTERVALS} Passable: without the cases that nothing right can pass as the file stands; "
        f"{result['num_solvable']} of {num_cases} remain. The paper: {paper('mtpb', 'metric')}. {UNVERIFIED}",
    )


def _perplexities(ours: Measured) -> Table:
    quotes = paper("mtpb", "prompt_perplexity")
    parts = ("all", "passed", "failed")
    rows = tuple(
        (
            _name(stage, way),
            *(_perplexity(result["perplexity"][way][part]) for part in parts),
            *quoted(quotes, stage, way),
        )
        for stage, result, way in _asked(ours)
    )
    return Table(
        caption="Perplexity of the prompts",
        columns=(
            Column(title="", numeric=False),
            *(
                Column(title=title, group="this run")
                for title in ("all samples", "passed", "failed")
            ),
            *paper_columns(),
        ),
        rows=rows,
        sources=ours.sources,
        footnote="Of each sample exp of the mean of -log p over the tokens of its prompts, given all before them; the mean "
        f"over samples. The lower, the better the model understood what it was asked for. {UNVERIFIED}",
    )


def _perplexity(value: float | None) -> Cell:
    return NOTHING if value is None else Cell(text=three_digits(value), title=repr(value))


def _by_difficulty(ours: Measured) -> tuple[Table | DotChart, ...]:
    """Several turns against one, by how hard a problem is for this model."""
    rows, dots = [], []
    for stage, result in ours.executed.items():
        parts = {way: result["rates"][way]["difficulty"] for way in WAYS if way in result["rates"]}
        for difficulty in (one for one in _DIFFICULTIES if one in parts[MULTI]):
            label = f"{STAGE_NAMES[stage]}, {difficulty}"
            number = Cell(text=f"{result['num_by_difficulty'][difficulty]:,}")
            rates = [parts[way].get(difficulty) if way in parts else None for way in WAYS]
            rows.append(
                (
                    Cell(text=label, mark=stage),
                    number,
                    *(share(rate) for rate in rates),
                    _gain(*rates),
                )
            )
            dots.append(
                (label, {_MARKS[way]: 100 * some[difficulty] for way, some in parts.items()})
            )
    if not rows:
        return ()
    chart = DotChart(
        title="Pass rate by difficulty, several turns against one",
        description="One row per stage and difficulty, one dot per way of asking; further right is better.",
        x_label="pass rate, percent",
        rows=tuple(dots),
        names={
            _MARKS[way]: name
            for way, name in WAYS.items()
            if any(way in one["sets"] for one in ours.results.values())
        },
    )
    titles = ("problems", *WAYS.values(), "gain")
    table = Table(
        caption="Pass rate in percent by difficulty",
        columns=(Column(title="", numeric=False), *(Column(title=title) for title in titles)),
        rows=tuple(rows),
        sources=ours.sources,
        footnote=f"Hard: less than {100 * HARD:.0f} % of a problem's programs of several turns pass; easy: more than "
        f"{100 * EASY:.0f} %. The paper takes the average over its models; here it is the model's own rate, so parts of "
        "different stages hold different problems. Gain: of several turns over one, in points.",
    )
    return (chart, table) if any(any(row.values()) for _, row in dots) else (table,)


def _gain(several: float | None, one: float | None) -> Cell:
    return NOTHING if several is None or one is None else Cell(text=f"{100 * (several - one):+.2f}")


_DIVISIONS = {
    "category": ("category", "Pass rate in percent by category"),
    "num_turns": ("turns", "Pass rate in percent by number of turns"),
}


def _by(ours: Measured, division: str) -> tuple[Table, ...]:
    title, caption = _DIVISIONS[division]
    found = _by_stage(ours, division)
    return (_table(ours, found, title, caption),) if found else ()


def _by_stage(ours: Measured, division: str) -> dict[tuple[str, str], Mapping[str, float]]:
    """Pass rates by stage and way, of each part of a division."""
    return {
        (stage, way): result["rates"][way][division]
        for stage, result, way in _asked(ours)
        if result["executed"]
    }


def _table(
    ours: Measured,
    found: Mapping[tuple[str, str], Mapping[str, Any]],
    title: str,
    caption: str,
    *,
    folded: bool = False,
) -> Table:
    parts = sorted({part for some in found.values() for part in some}, key=natural)
    return Table(
        caption=caption,
        columns=(
            Column(title=title, numeric=False),
            *(Column(title=WAYS[way], group=STAGE_NAMES[stage]) for stage, way in found),
        ),
        rows=tuple(
            (Cell(text=part), *(share(some.get(part)) for some in found.values())) for part in parts
        ),
        sources=ours.sources,
        folded=folded,
    )


def _problems(ours: Measured) -> tuple[Table, ...]:
    """The pass rate of each problem, over its cases."""
    found = _by_stage(ours, "problem")
    if not found:
        return ()
    names = {name for some in found.values() for name in some}
    solved = sum(any(some.get(name) for some in found.values()) for name in names)
    caption = f"Every problem: pass rate in percent ({solved} of {len(names)} problems were solved at all)"
    return (_table(ours, found, "problem", caption, folded=True),)
