"""HumanEval and MTPB: our figures beside the paper's, how samples failed, and what some of them look like.

One decision: a benchmark that was not executed shows its reason wherever a score would stand, never a zero. The paper's
figures come from `components/evaluation/paper.json`; those not read in a primary source carry a question mark.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_json, read_jsonl
from components.core.store import Store
from components.evaluation.report.left_out import left_out_for
from components.evaluation.report.page import (
    NOTHING,
    Block,
    Cell,
    Column,
    Sample,
    Samples,
    Section,
    Source,
    Table,
    Verdict,
)
from components.evaluation.report.results import STAGE_NAMES, STAGES, Measurement, RunResults

_SIZES = ("350M", "2.7B", "6.1B", "16.1B")
"""The paper's models (docs/paper.md, section 2)."""

PASSED = "passed"
"""The outcome of a sample that solved its task; all others are ways to fail (`sandbox/verdict.py`)."""

_MAX_EXCEPTIONS = 5
"""Names of exceptions that are listed."""

_UNVERIFIED = "? unverified: widely quoted, not read in a primary source."


def program_sections(results: RunResults, store: Store) -> tuple[Section, ...]:
    """HumanEval, MTPB, and samples."""
    return (_humaneval(results, store), _mtpb(results, store), _samples(results, store))


def _read(results: RunResults, store: Store, benchmark: Measurement) -> dict[str, dict[str, Any]]:
    """`results.json` by stage, of the stages on which the benchmark was run."""
    found = {stage: results.evaluations.get((stage, benchmark)) for stage in STAGES}
    return {stage: read_json(store.open(one) / "results.json") for stage, one in found.items() if one}


def _humaneval(results: RunResults, store: Store) -> Section:
    ours, unseen = _read(results, store, "humaneval"), left_out_for(results, "humaneval")
    lead = (
        "Programs written for 164 documented functions, run against hidden tests. pass@k: the chance that one of k passes."
    )
    if not ours:
        return Section(anchor="humaneval", title="HumanEval", lead=lead, blocks=(_not_run(results, "humaneval"), *unseen))
    paper = {(row["stage"], row["size"]): row for row in _paper("humaneval")["rows"] if row["family"] == "codegen"}
    rows = []
    for stage, result in ours.items():
        for k in _ks(result):
            name = Cell(text=f"{STAGE_NAMES[stage]} pass@{k}", mark=stage)
            quoted = (_quoted(paper.get((stage, size)), f"pass@{k}") for size in _SIZES)
            rows.append((name, _score(result, result["pass_at_k"].get(str(k))), *quoted))
    table = Table(
        caption="pass@k in percent",
        columns=_columns(),
        rows=tuple(rows),
        sources=_sources(results, "humaneval"),
        footnote=f"{_how(next(iter(ours.values())))}. The paper: {_paper('humaneval')['metric']}. {_UNVERIFIED}",
    )
    return Section(
        anchor="humaneval",
        title="HumanEval",
        lead=lead,
        blocks=(*_executed(ours), table, *unseen, *_outcomes(ours, table.sources)),
    )


def _ks(result: dict[str, Any]) -> list[int]:
    """The k that have an estimate; 1 where nothing was executed, so that the reason has a place."""
    return sorted(int(k) for k in result["pass_at_k"]) or [1]


def _mtpb(results: RunResults, store: Store) -> Section:
    ours, unseen = _read(results, store, "mtpb"), left_out_for(results, "mtpb")
    lead = "Programs written over several turns of a conversation, judged by the last value that they print."
    if not ours:
        return Section(anchor="mtpb", title="MTPB", lead=lead, blocks=(_not_run(results, "mtpb"), *unseen))
    paper = {
        (row["stage"], row["size"]): row
        for row in _paper("mtpb")["rows"]
        if row["family"] == "codegen" and row["turns"] == "multi"
    }
    rows = []
    for stage, result in ours.items():
        quoted = (_quoted(paper.get((stage, size)), "pass_rate") for size in _SIZES)
        name = STAGE_NAMES[stage]
        rows.append((Cell(text=f"{name}, all cases", mark=stage), _score(result, result["pass_rate"]), *quoted))
        passable = _score(result, result["pass_rate_of_passable"])
        rows.append((Cell(text=f"{name}, cases that can pass", mark=stage), passable, *[NOTHING] * len(_SIZES)))
    table = Table(
        caption="pass rate in percent, several turns",
        columns=_columns(),
        rows=tuple(rows),
        sources=_sources(results, "mtpb"),
        footnote=f"{_how(next(iter(ours.values())))}. The paper: {_paper('mtpb')['metric']}. {_UNVERIFIED}",
    )
    return Section(
        anchor="mtpb", title="MTPB", lead=lead, blocks=(*_executed(ours), table, *unseen, *_outcomes(ours, table.sources))
    )


def _columns() -> tuple[Column, ...]:
    ours = (Column(title="", numeric=False), Column(title="this run"))
    return (*ours, *(Column(title=size, group="the paper's CodeGen") for size in _SIZES))


def _not_run(results: RunResults, benchmark: Measurement) -> Verdict:
    return Verdict(None, f"Not run: {results.skipped.get(benchmark, 'this run left it out')}")


def _score(result: dict[str, Any], fraction: float | None) -> Cell:
    if not result["executed"]:
        return Cell(text="not executed", title=str(result["reason"]), tone="quiet")
    return NOTHING if fraction is None else Cell(text=f"{100 * fraction:.2f}", tone="strong", title=repr(fraction))


def _quoted(row: dict[str, Any] | None, figure: str) -> Cell:
    if row is None or figure not in row:
        return NOTHING
    text = f"{row[figure]:.2f}"
    return Cell(text=text) if row["verified"] else Cell(text=f"{text} ?", tone="quiet", title="unverified")


def _paper(benchmark: str) -> dict[str, Any]:
    with resources.as_file(resources.files("components.evaluation") / "paper.json") as file:
        return dict(read_json(file)[benchmark])


def _sources(results: RunResults, benchmark: Measurement) -> tuple[Source, ...]:
    found = (results.evaluations.get((stage, benchmark)) for stage in STAGES)
    return tuple(Source.of(one) for one in found if one)


def _executed(ours: dict[str, dict[str, Any]]) -> tuple[Verdict, ...]:
    """In which sandbox programs ran, or why they did not."""
    sandboxes = sorted({f"{one['sandbox']} (mode {one['mode']})" for one in ours.values() if one["executed"]})
    isolated = all(one["isolated"] for one in ours.values() if one["executed"])
    where = "Executed in a sandbox" if isolated else "Executed without isolation, as asked; the gate refuses such a model"
    reasons = dict.fromkeys(str(result["reason"]) for result in ours.values() if not result["executed"])
    ran = (Verdict(isolated, f"{where}: {'; '.join(sandboxes)}."),) if sandboxes else ()
    return (*ran, *(Verdict(None, f"Samples were drawn, but not executed: {reason}") for reason in reasons))


def _how(result: dict[str, Any]) -> str:
    """The protocol of this run in a line."""
    num_cases = result.get("num_cases")  # HumanEval has none.
    cases = f" x {num_cases} case{'s' if num_cases > 1 else ''}" if num_cases else ""
    return (
        f"This run: {result['num_problems']} problems{cases}, n = {result['num_samples']}, "
        f"temperature {result['temperature']:g}, top-p {result['top_p']:g}"
    )


def _outcomes(ours: dict[str, dict[str, Any]], sources: tuple[Source, ...]) -> tuple[Block, ...]:
    """How many samples passed, and how the others failed."""
    executed = {stage: result for stage, result in ours.items() if result["executed"]}
    if not executed:
        return ()
    kinds = {kind for result in executed.values() for kind in result["outcomes"]} | {PASSED}
    ordered = sorted(kinds, key=lambda kind: (kind != PASSED, kind))
    titles = (
        Column(title="after", numeric=False),
        Column(title="samples"),
        *(Column(title=_spoken(kind)) for kind in ordered),
    )
    return (
        Table(
            caption="What became of the samples",
            columns=titles,
            rows=tuple(_outcome_row(stage, result["outcomes"], ordered) for stage, result in executed.items()),
            sources=sources,
            footnote=_exceptions(executed),
        ),
    )


def _outcome_row(stage: str, outcomes: dict[str, int], kinds: list[str]) -> tuple[Cell, ...]:
    counts = (Cell(text=f"{outcomes.get(kind, 0):,}", tone="strong" if kind == PASSED else "plain") for kind in kinds)
    return (Cell(text=STAGE_NAMES[stage], mark=stage), Cell(text=f"{sum(outcomes.values()):,}"), *counts)


def _exceptions(executed: dict[str, dict[str, Any]]) -> str:
    """The most frequent exceptions of all stages together, as the programs named them."""
    total: Counter[str] = Counter()
    for result in executed.values():
        total.update(result["exceptions"])
    frequent = sorted(total.items(), key=lambda one: (-one[1], one[0]))[:_MAX_EXCEPTIONS]
    return f"Most frequent exceptions: {', '.join(f'{name} {number:,}' for name, number in frequent)}." if frequent else ""


def _samples(results: RunResults, store: Store) -> Section:
    artifacts = {stage: results.evaluations.get((stage, "humaneval")) for stage in STAGES}
    chosen = (_sample(stage, artifact, store) for stage, artifact in artifacts.items() if artifact)
    samples = Samples(tuple(one for one in chosen if one), _sources(results, "humaneval"))
    blocks: tuple[Block, ...] = (samples,) if samples.samples else (Verdict(None, "No program was sampled in this run."),)
    lead = "One program per stage, as sampled: the first that passed, else the first of all. Grey is the prompt."
    return Section(anchor="samples", title="Samples", lead=lead, blocks=blocks)


def _sample(stage: str, artifact: Artifact, store: Store) -> Sample | None:
    """The first sample that passed, else the first."""
    first = None
    for record in read_jsonl(store.open(artifact) / "samples.jsonl"):
        first = first or record
        if record["outcome"] == PASSED:
            first = record
            break
    if first is None:
        return None
    outcome = first["outcome"]
    return Sample(
        mark=stage,
        heading=f"{STAGE_NAMES[stage]}, {first['task_id']}",
        verdict=_spoken(outcome) if outcome else "not executed",
        tone="good" if outcome == PASSED else "bad" if outcome else "quiet",
        prompt=first.get("prompt", ""),
        completion=first["completion"],
    )


def _spoken(kind: str) -> str:
    return kind.replace("_", " ")
