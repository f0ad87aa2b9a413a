"""Parts shared by the HumanEval and MTPB sections: results, the paper's rows, sample outcomes.

If a benchmark's programs were not executed, the reason is shown in place of a score, never a zero.
The paper's values come from `components/evaluation/paper.json`; values that were not read in a
primary source carry a question mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from components.core.artifact import Artifact
from components.core.files import read_json
from components.core.store import Store
from components.evaluation.benchmarks.mtpb import MULTI, SINGLE
from components.report.formatting import count, join_words, plural, short_digest
from components.report.page import Block, Section, Statement, section
from components.report.rejects import contamination_statement
from components.report.results import BENCHMARKS, RunResults, benchmark_title, stage_title
from components.report.table import Cell, Table, Value, group, stage_cell, table

SIZES = ("350M", "2.7B", "6.1B", "16.1B")
"""The paper's models (docs/paper.md, section 2)."""
PAPER_COLUMNS = group("paper: CodeGen", *SIZES)
"""The columns of `paper_cells`."""
UNVERIFIED = "? unverified: widely quoted, not read in a primary source."
INTERVALS = "Intervals: 95 %, bootstrap over the problems."
PASSED = "passed"
"""The outcome of a correct sample; every other outcome is a failure (`sandbox/job.py`)."""
NEEDS_FAST = (
    " Needs fast mode: samples whose test cannot be executed in the mode split; they count as "
    "failures. The mode fast gives their verdict: --set evaluation.humaneval.mode=fast."
)
PROMPT_MODES = {MULTI: "multi-turn", SINGLE: "single-turn"}
"""The sample sets of MTPB."""

_MAX_EXCEPTION_TYPES = 8

Result = dict[str, Any]
"""`results.json` of an evaluation, or a sample set in it."""


class BenchmarkResults(NamedTuple):
    """The evaluations of a run by a benchmark."""

    name: str
    by_stage: dict[str, Result]
    artifacts: Sequence[Artifact]

    @property
    def executed(self) -> dict[str, Result]:
        """The evaluations that executed programs."""
        return {stage: result for stage, result in self.by_stage.items() if result["executed"]}

    def sets(self) -> list[tuple[str, str, Result]]:
        """Stage, label and record of every sample set that was executed."""
        return [
            (stage, label, sample_set)
            for stage, result in self.executed.items()
            for label, sample_set in ordered_sets(result).items()
        ]


def benchmark_section(
    results: RunResults,
    store: Store,
    benchmark: str,
    lead: str,
    blocks: Callable[[BenchmarkResults], Sequence[Block | None]],
) -> Section:
    """The section of a benchmark, or why it was not run.

    Args:
        blocks: returns the table of scores, then the other blocks.
    """
    title = benchmark_title(benchmark)
    # The name of a benchmark that is not in the paper may be the anchor of another section.
    anchor = benchmark if benchmark in BENCHMARKS else f"benchmark-{benchmark}"
    contamination = contamination_statement(results, benchmark)
    evaluations = _read_results(results, store, benchmark)
    if not evaluations.by_stage:
        reason = results.skipped.get(benchmark, "not part of this run")
        return section(anchor, title, lead, Statement(None, f"Not run: {reason}"), contamination)
    scores, *others = blocks(evaluations)
    statements = _execution_statements(evaluations)
    return section(anchor, title, lead, *statements, scores, contamination, *others)


def _read_results(results: RunResults, store: Store, benchmark: str) -> BenchmarkResults:
    """The results of the stages that a benchmark evaluated."""
    artifacts = results.evaluations_of(benchmark)
    by_stage = {
        stage: read_json(store.fetch_verified(artifact) / "results.json")
        for stage, artifact in artifacts.items()
    }
    return BenchmarkResults(benchmark, by_stage, list(artifacts.values()))


def _execution_statements(benchmark: BenchmarkResults) -> tuple[Statement, ...]:
    """The sandbox in which programs were executed, or why they were not."""
    executed = benchmark.executed.values()
    sandboxes = sorted(
        {f"{result['sandbox']} (mode {result['mode']}, {_limits(result)})" for result in executed}
    )
    isolated = all(result["isolated"] for result in executed)
    without = "Executed without isolation, as requested; the promotion gate refuses such a model"
    where = "Executed in a sandbox" if isolated else without
    reasons = dict.fromkeys(
        str(result["reason"]) for result in benchmark.by_stage.values() if not result["executed"]
    )
    statements = [Statement(isolated, f"{where}: {'; '.join(sandboxes)}.")] if sandboxes else []
    statements += [
        Statement(None, f"Samples were generated but not executed: {reason}") for reason in reasons
    ]
    return tuple(statements)


def _limits(result: Result) -> str:
    limits = result["protocol_settings"]["limits"]
    return f"{limits['cpu_s']} s of CPU time before calibration, {limits['memory_mib']} MiB"


def protocol_summary(benchmark: BenchmarkResults) -> str:
    """The protocol of this run; several sentences if the stages differ."""
    return " ".join(dict.fromkeys(_protocol(result) for result in benchmark.by_stage.values()))


def _protocol(result: Result) -> str:
    sets = ordered_sets(result).values()
    # HumanEval has no cases.
    cases = f" x {plural(result['num_cases'], 'case')}" if "num_cases" in result else ""
    temperatures = list(dict.fromkeys(f"{sample_set['temperature']:g}" for sample_set in sets))
    numbers = [str(n) for n in sorted({sample_set["num_samples"] for sample_set in sets})]
    top_p = sorted({f"{sample_set['top_p']:g}" for sample_set in sets})
    return (
        f"This run: {result['num_problems']} problems{cases}, n = {join_words(numbers)}, "
        f"temperature{'s' if len(temperatures) > 1 else ''} {join_words(temperatures)}, "
        f"top-p {join_words(top_p)}, protocol {short_digest(result['protocol'])}."
    )


def ordered_sets(result: Result) -> dict[str, Result]:
    """The sample sets, lowest temperature first."""
    return dict(sorted(result["sets"].items(), key=lambda item: (item[1]["temperature"], item[0])))


def set_name(label: str, sample_set: Mapping[str, Any]) -> str:
    """The prompt mode of a sample set of MTPB, or the temperature."""
    return PROMPT_MODES.get(label, f"at {sample_set['temperature']:g}")


def outcome_name(outcome: str | None) -> str:
    """An outcome in words."""
    return outcome.replace("_", " ") if outcome else "not executed"


def score_cell(result: Result, fraction: float | None) -> Cell | None:
    """A score in percent, or that nothing was executed."""
    if not result["executed"]:
        return Cell("not executed", title=str(result["reason"]), tone="quiet")
    if fraction is None:
        return None
    return Cell(in_percent(fraction), tone="strong", title=repr(fraction))


def percent_cell(fraction: float | None) -> Cell | None:
    """A fraction in percent, if it was measured."""
    return None if fraction is None else Cell(in_percent(fraction), title=repr(fraction))


def interval_cell(low: float | None, high: float | None) -> Cell | None:
    """Two bounds in percent."""
    if low is None or high is None:
        return None
    return Cell(f"{in_percent(low)}\u2013{in_percent(high)}", tone="quiet")


def in_percent(fraction: float) -> str:
    """A score as in the paper: in percent with two decimals."""
    return f"{100 * fraction:.2f}"


def paper_values(benchmark: str, entry: str = "rows") -> Any:
    """A benchmark in the paper: its `rows`, or its `metric`."""
    with resources.as_file(resources.files("components.evaluation") / "paper.json") as file:
        return read_json(file)[benchmark][entry]


def paper_cells(rows: Iterable[dict[str, Any]], stage: str, metric: str) -> list[Cell | None]:
    """A metric of the paper's models after a stage, in the order of `SIZES`."""
    by_size = {row["size"]: row for row in rows if row["stage"] == stage and metric in row}
    return [_paper_cell(by_size.get(size), metric) for size in SIZES]


def _paper_cell(row: dict[str, Any] | None, metric: str) -> Cell | None:
    if row is None:
        return None
    value = f"{row[metric]:.2f}"
    return Cell(value) if row["verified"] else Cell(f"{value} ?", tone="quiet", title="unverified")


def outcome_tables(benchmark: BenchmarkResults) -> tuple[Table | None, ...]:
    """The outcomes of the samples by stage and set, and the exceptions; none without executed
    samples."""
    if not benchmark.executed:
        return ()
    kinds = {kind for result in benchmark.executed.values() for kind in result["outcomes"]}
    outcomes = [PASSED, *sorted(kinds - {PASSED})]
    rows: list[list[Value]] = []
    for stage, label, sample_set in benchmark.sets():
        several_sets = len(benchmark.executed[stage]["sets"]) > 1
        details = [set_name(label, sample_set)] if several_sets else []
        rows.append([stage_cell(stage, *details), *_outcome_cells(sample_set, outcomes)])
    names = [outcome_name(outcome) for outcome in outcomes]
    needs_fast = NEEDS_FAST if "needs_fast_mode" in outcomes else ""
    outcome_table = table(
        "Sample outcomes",
        ["after stage", "samples", *names, "truncated", "unfinished", "tokens"],
        rows,
        benchmark.artifacts,
        footnote="Truncated: completions that the paper's truncation rules shortened. Unfinished: "
        f"completions that reached the token limit without a stop. Tokens: as sampled.{needs_fast}",
    )
    return outcome_table, _exception_table(benchmark)


def _outcome_cells(sample_set: Result, outcomes: Sequence[str]) -> tuple[Value, ...]:
    counts: Mapping[str, int] = sample_set["outcomes"]
    passed, *failed = (counts.get(outcome, 0) for outcome in outcomes)
    tokens = Cell(count(sample_set["num_tokens"]), title=f"{sample_set['num_tokens']:,}")
    passed_cell = Cell(f"{passed:,}", tone="strong")
    return (
        sum(counts.values()),
        passed_cell,
        *failed,
        sample_set["num_truncated"],
        sample_set["num_unfinished"],
        tokens,
    )


def _exception_table(benchmark: BenchmarkResults) -> Table | None:
    """The most frequent exceptions by type."""
    by_stage: dict[str, Counter[str]] = {stage: Counter() for stage in benchmark.executed}
    for stage, _, sample_set in benchmark.sets():
        by_stage[stage].update(sample_set["exceptions"])
    total = sum(by_stage.values(), Counter[str]())
    if not total:
        return None
    types = sorted(total, key=lambda name: (-total[name], name))
    frequent, rare = types[:_MAX_EXCEPTION_TYPES], types[_MAX_EXCEPTION_TYPES:]
    rows: list[list[Value]] = [
        [name, *(counts[name] for counts in by_stage.values())] for name in frequent
    ]
    if rare:
        sums = (sum(counts[name] for name in rare) for counts in by_stage.values())
        rows.append([Cell(f"{len(rare)} other types", tone="quiet"), *sums])
    columns = ["type", *(stage_title(stage) for stage in by_stage)]
    return table("Exceptions by type", columns, rows, benchmark.artifacts)
