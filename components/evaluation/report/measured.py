"""What the sections of HumanEval and MTPB have in common: results by stage, the paper's rows, and how they are written.

One decision: a benchmark that was not executed shows its reason wherever a score would stand, never a zero. The paper's
figures come from `components/evaluation/paper.json`; those not read in a primary source carry a question mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, NamedTuple

from components.core.artifact import Artifact
from components.core.files import read_json
from components.core.store import Store
from components.evaluation.benchmarks.mtpb import MULTI, SINGLE
from components.evaluation.report.cells import NOTHING, Cell, Column, Source
from components.evaluation.report.page import Verdict
from components.evaluation.report.results import STAGES, Measurement, RunResults
from components.evaluation.report.wording import digest, listed

SIZES = ("350M", "2.7B", "6.1B", "16.1B")
"""The paper's models (docs/paper.md, section 2)."""
UNVERIFIED = "? unverified: widely quoted, not read in a primary source."
INTERVALS = "Intervals: 95 % of resamples of the problems (bootstrap)."
PASSED = "passed"
"""The outcome of a sample that solved its task; all others are ways to fail (`sandbox/verdict.py`)."""

WAYS = {MULTI: "several turns", SINGLE: "one turn"}
"""The sets of MTPB."""

Result = dict[str, Any]
"""`results.json` of an evaluation."""


class Measured(NamedTuple):
    """A benchmark, as it was run in a run."""

    results: dict[str, Result]
    """By stage."""
    sources: tuple[Source, ...]

    @property
    def executed(self) -> dict[str, Result]:
        """Those of which programs were executed."""
        return {stage: one for stage, one in self.results.items() if one["executed"]}


def artifacts_of(results: RunResults, benchmark: str) -> dict[str, Artifact]:
    """The evaluations by a benchmark, by stage in order."""
    found = {
        stage: name
        for stage in STAGES
        for of, name in results.evaluations
        if (of, name) == (stage, benchmark)
    }
    return {stage: results.evaluations[stage, name] for stage, name in found.items()}


def measured(results: RunResults, store: Store, benchmark: Measurement) -> Measured:
    """The results of the stages on which a benchmark was run."""
    artifacts = artifacts_of(results, benchmark)
    read = {
        stage: read_json(store.fetch_verified(one) / "results.json")
        for stage, one in artifacts.items()
    }
    return Measured(read, tuple(Source.of(one) for one in artifacts.values()))


def not_run(results: RunResults, benchmark: Measurement) -> Verdict:
    """Why a benchmark has no section."""
    return Verdict(None, f"Not run: {results.skipped.get(benchmark, 'this run left it out')}")


def executed_where(ours: Measured) -> tuple[Verdict, ...]:
    """In which sandbox programs ran, or why they did not."""
    executed = ours.executed.values()
    sandboxes = sorted(
        {f"{one['sandbox']} (mode {one['mode']}, {_limit(one)})" for one in executed}
    )
    isolated = all(one["isolated"] for one in executed)
    where = (
        "Executed in a sandbox"
        if isolated
        else "Executed without isolation, as asked; the gate refuses such a model"
    )
    reasons = dict.fromkeys(
        str(one["reason"]) for one in ours.results.values() if not one["executed"]
    )
    ran = (Verdict(isolated, f"{where}: {'; '.join(sandboxes)}."),) if sandboxes else ()
    return (
        *ran,
        *(Verdict(None, f"Samples were drawn, but not executed: {reason}") for reason in reasons),
    )


def _limit(result: Result) -> str:
    limits = result["protocol_settings"]["limits"]
    return (
        f"{limits['cpu_s']} s of processor time before calibration and {limits['memory_mib']} MiB"
    )


def how(ours: Measured) -> str:
    """The protocol of this run, in a sentence; in several where stages differ."""
    return " ".join(dict.fromkeys(_protocol(one) for one in ours.results.values()))


def _protocol(result: Result) -> str:
    sets = ordered_sets(result).values()
    num_cases = result.get("num_cases")  # HumanEval has none.
    cases = f" x {num_cases} case{'s' if num_cases > 1 else ''}" if num_cases else ""
    temperatures = list(dict.fromkeys(f"{one['temperature']:g}" for one in sets))
    numbers, masses = {one["num_samples"] for one in sets}, {f"{one['top_p']:g}" for one in sets}
    return (
        f"This run: {result['num_problems']} problems{cases}, n = {listed([str(one) for one in sorted(numbers)])}, "
        f"temperature{'s' if len(temperatures) > 1 else ''} {listed(temperatures)}, top-p {listed(sorted(masses))}, "
        f"protocol {digest(result['protocol'])}."
    )


def ordered_sets(result: Result) -> dict[str, dict[str, Any]]:
    """The sets of samples, the coolest first."""
    return dict(sorted(result["sets"].items(), key=lambda one: (one[1]["temperature"], one[0])))


def score(result: Result, fraction: float | None) -> Cell:
    """A share in percent, or that nothing was executed."""
    if not result["executed"]:
        return Cell(text="not executed", title=str(result["reason"]), tone="quiet")
    return (
        NOTHING
        if fraction is None
        else Cell(text=in_percent(fraction), tone="strong", title=repr(fraction))
    )


def share(fraction: float | None) -> Cell:
    """A share in percent, or that there is none."""
    return NOTHING if fraction is None else Cell(text=in_percent(fraction), title=repr(fraction))


def interval(low: float | None, high: float | None) -> Cell:
    """Two bounds in percent."""
    return (
        NOTHING
        if low is None or high is None
        else Cell(text=f"{in_percent(low)}\u2013{in_percent(high)}", tone="quiet")
    )


def in_percent(fraction: float) -> str:
    """As the paper writes its scores: in percent with two decimals."""
    return f"{100 * fraction:.2f}"


def paper(benchmark: str, part: str = "rows") -> Any:
    """What the paper says of a benchmark: its `rows`, or its `metric`."""
    with resources.as_file(resources.files("components.evaluation") / "paper.json") as file:
        return read_json(file)[benchmark][part]


def paper_columns() -> tuple[Column, ...]:
    """Heads for the paper's models."""
    return tuple(Column(title=size, group="the paper's CodeGen") for size in SIZES)


def quoted(rows: Iterable[dict[str, Any]], stage: str, figure: str) -> tuple[Cell, ...]:
    """A figure of the paper's models of a stage, in the order of `SIZES`."""
    by_size = {row["size"]: row for row in rows if row["stage"] == stage and figure in row}
    return tuple(_quoted(by_size.get(size), figure) for size in SIZES)


def _quoted(row: dict[str, Any] | None, figure: str) -> Cell:
    if row is None:
        return NOTHING
    text = f"{row[figure]:.2f}"
    return (
        Cell(text=text)
        if row["verified"]
        else Cell(text=f"{text} ?", tone="quiet", title="unverified")
    )


def set_name(label: str, one: Mapping[str, Any]) -> str:
    """What a set of samples is called, given its label and what results tell of it: the way of asking, or how hot it is."""
    return WAYS.get(label, f"at {one['temperature']:g}")


def spoken(kind: str | None) -> str:
    """An outcome as a person says it."""
    return kind.replace("_", " ") if kind else "not executed"
