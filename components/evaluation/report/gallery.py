"""What the models wrote: a few programs on the page of results, and hundreds on a page of their own.

One decision: how many programs a page shows is bounded, whatever was sampled, and it says how many it leaves out. Those that
passed come first, up to half of the room; the rest is shared among the ways to fail, so that a rare one is there, too; of
each kind samples are taken evenly over the file. Equal samples give an equal page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_json, read_jsonl
from components.core.store import Store
from components.evaluation.report.cells import NOTHING, Cell, Column, Source, Table
from components.evaluation.report.left_out import BENCHMARKS
from components.evaluation.report.measured import PASSED, artifacts_of, set_name, spoken
from components.evaluation.report.page import (
    Block,
    Gallery,
    Link,
    Page,
    Paragraph,
    Sample,
    Samples,
    Section,
    Verdict,
)
from components.evaluation.report.results import STAGE_NAMES, RunResults

SAMPLES_PAGE = "samples.html"
"""The page of samples, beside the page of results."""
MAX_SHOWN = 200
"""Samples of a stage and benchmark that the page of samples shows. Assumption: as many as a person looks through."""

_FILTERS = ("stage", "benchmark", "set", "verdict")


def samples_section(results: RunResults, store: Store) -> Section:
    """One program per stage and benchmark, and the way to more."""
    chosen = []
    for benchmark in BENCHMARKS:
        for stage, artifact in artifacts_of(results, benchmark).items():
            if record := _first(artifact, store):
                chosen.append(_Teller(stage, benchmark, artifact, store).sample(record))
    blocks: tuple[Block, ...] = (Verdict(None, "No program was sampled in this run."),)
    if chosen:
        more = Link(
            f"Up to {MAX_SHOWN} programs of every stage and benchmark, with their verdicts",
            SAMPLES_PAGE,
        )
        blocks = (more, Samples(tuple(chosen), _sources(results)))
    lead = (
        "One program per stage and benchmark, as sampled: the first that passed, else the first of all. Grey is what was "
        "asked."
    )
    return Section(anchor="samples", title="Samples", lead=lead, blocks=blocks)


def samples_page(results: RunResults, store: Store) -> Page:
    """The page of samples.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    shown: list[tuple[Sample, tuple[str, ...]]] = []
    counts: dict[tuple[str, str], tuple[Counter[str], Counter[str]]] = {}
    for benchmark in BENCHMARKS:
        for stage, artifact in artifacts_of(results, benchmark).items():
            path = store.fetch_verified(artifact) / "samples.jsonl"
            kinds = [spoken(record["outcome"]) for record in read_jsonl(path)]
            wanted = choose(kinds, MAX_SHOWN)
            places = set(wanted)
            records = {
                place: record for place, record in enumerate(read_jsonl(path)) if place in places
            }
            counts[stage, benchmark] = Counter(kinds), Counter(kinds[place] for place in wanted)
            tell = _Teller(stage, benchmark, artifact, store)
            shown += [
                (tell.sample(records[place]), tell.values(records[place])) for place in wanted
            ]
    blocks: tuple[Block, ...] = (Paragraph("No program was sampled in this run."),)
    if shown:
        blocks = (
            _table(counts),
            Gallery(filters=_FILTERS, samples=tuple(shown), sources=_sources(results)),
        )
    num_samples = sum(all_kinds.total() for all_kinds, _ in counts.values())
    return Page(
        title=f"Samples of {results.recipe}",
        subtitle=f"run begun {results.made_by.get('created_at', 'at an unknown time')}",
        headline=Paragraph(f"{len(shown):,} of {num_samples:,} programs are shown."),
        sections=(Section(anchor="samples", title="What the models wrote", blocks=blocks),),
    )


def choose(kinds: Sequence[str], at_most: int) -> list[int]:
    """The places of the samples that are shown, given the outcome of each: those that passed first, then by place.

    Both parts, and each way to fail, are spread evenly over their samples.
    """
    places: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    passed = places.pop(PASSED, [])
    num_others = len(kinds) - len(passed)
    first = _evenly(passed, max(at_most // 2, at_most - num_others))
    room, others = at_most - len(first), list[int]()
    for index, kind in enumerate(sorted(places, key=lambda kind: (len(places[kind]), kind))):
        # From the rarest on: what one kind does not need is shared among those that follow.
        taken = _evenly(places[kind], room // (len(places) - index))
        room -= len(taken)
        others += taken
    return [*first, *sorted(others)]


def _evenly(places: Sequence[int], at_most: int) -> list[int]:
    wanted = min(at_most, len(places))
    return [places[len(places) * index // wanted] for index in range(wanted)]


def _table(counts: dict[tuple[str, str], tuple[Counter[str], Counter[str]]]) -> Table:
    """How many samples there are and how many are shown, by their verdict."""
    found = {kind for all_kinds, _ in counts.values() for kind in all_kinds}
    executed = found - {spoken(None)}
    kinds = sorted(
        found | ({PASSED} if executed else set()), key=lambda kind: (kind != PASSED, kind)
    )
    rows = []
    for (stage, benchmark), (all_kinds, shown) in counts.items():
        name = Cell(text=f"{STAGE_NAMES[stage]}, {BENCHMARKS[benchmark]}", mark=stage)
        unknown = set(all_kinds) == {spoken(None)}
        cells = (
            NOTHING if unknown and not shown[kind] else _of(shown[kind], all_kinds[kind])
            for kind in kinds
        )
        rows.append((name, _of(shown.total(), all_kinds.total()), *cells))
    return Table(
        caption="Samples that are shown, of all",
        columns=(
            Column(title="", numeric=False),
            *(Column(title=title) for title in ("all", *kinds)),
        ),
        rows=tuple(rows),
        footnote=f"At most {MAX_SHOWN} of a stage and benchmark: those that passed first, up to half of the room, then "
        "every way to fail, evenly over the file. All of them are in samples.jsonl of the evaluations.",
    )


def _of(shown: int, total: int) -> Cell:
    return Cell(text=f"{total:,}" if shown == total else f"{shown:,} of {total:,}")


def _sources(results: RunResults) -> tuple[Source, ...]:
    found = (one for benchmark in BENCHMARKS for one in artifacts_of(results, benchmark).values())
    return tuple(Source.of(one) for one in found)


def _first(artifact: Artifact, store: Store) -> dict[str, Any] | None:
    """The first sample that passed, else the first."""
    first: dict[str, Any] | None = None
    for record in read_jsonl(store.fetch_verified(artifact) / "samples.jsonl"):
        if first is None or record["outcome"] == PASSED:
            first = record
        if first["outcome"] in (PASSED, None):
            break
    return first


class _Teller:
    """What is said of the samples of an evaluation."""

    def __init__(self, stage: str, benchmark: str, artifact: Artifact, store: Store) -> None:
        self._stage, self._benchmark = stage, BENCHMARKS[benchmark]
        self._sets: dict[str, Any] = read_json(store.fetch_verified(artifact) / "results.json")[
            "sets"
        ]

    def values(self, record: dict[str, Any]) -> tuple[str, ...]:
        """What a sample is, by each filter."""
        return (
            STAGE_NAMES[self._stage],
            self._benchmark,
            self._set_name(record),
            spoken(record["outcome"]),
        )

    def sample(self, record: dict[str, Any]) -> Sample:
        """A line of samples.jsonl."""
        outcome, raised, task = record["outcome"], record["exception_type"], str(record["task_id"])
        completions = [record["completion"]] if "completion" in record else record["completions"]
        task = task if task.startswith(self._benchmark) else f"{self._benchmark} {task}"
        return Sample(
            mark=self._stage,
            heading=f"{STAGE_NAMES[self._stage]}, {task}, {self._set_name(record)}, sample {record['sample']}",
            verdict=f"{spoken(outcome)}: {raised}" if raised else spoken(outcome),
            tone="good" if outcome == PASSED else "bad" if outcome else "quiet",
            turns=tuple(zip(record["prompts"], completions, strict=True)),
            note=_note(record, len(completions)),
        )

    def _set_name(self, record: dict[str, Any]) -> str:
        return set_name(record["set"], self._sets[record["set"]])


def _note(record: dict[str, Any], num_turns: int) -> str:
    """How long it is, and how it ended."""
    counts = {"cut": record["num_truncated"], "out of tokens": record["num_unfinished"]}
    ends = [
        name if num_turns == 1 else f"{number} of {num_turns} turns {name}"
        for name, number in counts.items()
        if number
    ]
    return ", ".join([f"{record['tokens']:,} tokens", *ends])
