"""Generated programs: a sample per stage and benchmark in the report, and a page of up to 200 each.

The number of programs on a page is bounded, and the page reports how many it does not show. Passed
samples come first, up to half of the page; the rest is divided among the failures, so a rare
failure is shown too, and each outcome is spread evenly over the file. Equal samples give an equal
page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_json, read_jsonl
from components.core.store import Store
from components.report.benchmark_results import PASSED, outcome_name, set_name
from components.report.page import CodeSample, Listing, Page, Paragraph, Section, Statement, section
from components.report.results import RunResults, benchmark_title, stage_title
from components.report.table import Table, TableSource, Value, sources_of, stage_cell, table

SAMPLES_PAGE = "samples.html"
"""The page of samples, in the folder of the results report."""
MAX_SHOWN = 200
"""Samples of a stage and benchmark on the page of samples. Assumption: as many as a reader
scans."""

_FILTERS = ("stage", "benchmark", "set", "verdict")
_NO_SAMPLES = "No program was sampled in this run."

Counts = dict[tuple[str, str], tuple[Counter[str], Counter[str]]]
"""All samples and the samples on the page by outcome, for each stage and benchmark."""


def samples_section(results: RunResults, store: Store) -> Section:
    """A program per stage and benchmark, and a link to more."""
    samples = []
    for benchmark, stage, artifact in _evaluations(results):
        if record := _first_record(artifact, store):
            samples.append(_SampleFormatter(stage, benchmark, artifact, store).sample(record))
    lead = (
        "One program per stage and benchmark: the first that passed, otherwise the first sample. "
        "Prompts are grey."
    )
    if not samples:
        return section("samples", "Samples", lead, Statement(None, _NO_SAMPLES))
    link = Paragraph(
        f"Up to {MAX_SHOWN} programs per stage and benchmark, with their verdicts", SAMPLES_PAGE
    )
    listing = Listing(samples=tuple(samples), sources=_sources(results))
    return section("samples", "Samples", lead, link, listing)


def samples_page(results: RunResults, store: Store) -> Page:
    """The page of samples.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    samples: list[CodeSample] = []
    counts: Counts = {}
    for benchmark, stage, artifact in _evaluations(results):
        path = store.fetch_verified(artifact) / "samples.jsonl"
        outcomes = [outcome_name(record["outcome"]) for record in read_jsonl(path)]
        indices = choose_samples(outcomes, MAX_SHOWN)
        selected = set(indices)
        records = {
            index: record for index, record in enumerate(read_jsonl(path)) if index in selected
        }
        counts[stage, benchmark] = Counter(outcomes), Counter(outcomes[index] for index in indices)
        formatter = _SampleFormatter(stage, benchmark, artifact, store)
        samples += [formatter.sample(records[index]) for index in indices]
    programs = section("samples", "Generated programs", "", Paragraph(_NO_SAMPLES))
    if samples:
        listing = Listing(filters=_FILTERS, samples=tuple(samples), sources=_sources(results))
        programs = section("samples", "Generated programs", "", _count_table(counts), listing)
    num_samples = sum(outcomes.total() for outcomes, _ in counts.values())
    return Page(
        title=f"Samples of {results.recipe}",
        subtitle=f"run started {results.started_at}",
        headline=Paragraph(f"{len(samples):,} of {num_samples:,} programs are shown."),
        sections=(programs,),
    )


def _evaluations(results: RunResults) -> Iterator[tuple[str, str, Artifact]]:
    """Benchmark, stage and artifact of each evaluation that has samples."""
    for benchmark in results.benchmarks:
        for stage, artifact in results.evaluations_of(benchmark).items():
            yield benchmark, stage, artifact


def choose_samples(outcomes: Sequence[str], limit: int) -> list[int]:
    """Indices of the samples on the page: passed samples first, then the failures by index."""
    indices: dict[str, list[int]] = {}
    for index, outcome in enumerate(outcomes):
        indices.setdefault(outcome, []).append(index)
    all_passed = indices.pop(PASSED, [])
    num_failed = len(outcomes) - len(all_passed)
    passed = _spread(all_passed, max(limit // 2, limit - num_failed))
    remaining = limit - len(passed)
    failed: list[int] = []
    # Rarest outcome first: its unused share is divided among the outcomes that follow.
    by_frequency = sorted(indices, key=lambda outcome: (len(indices[outcome]), outcome))
    for position, outcome in enumerate(by_frequency):
        selected = _spread(indices[outcome], remaining // (len(by_frequency) - position))
        remaining -= len(selected)
        failed += selected
    return [*passed, *sorted(failed)]


def _spread(indices: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the indices, evenly spaced."""
    number = min(limit, len(indices))
    return [indices[len(indices) * position // number] for position in range(number)]


def _count_table(counts: Counts) -> Table:
    """Samples on the page and in total, by verdict."""
    present = {outcome for outcomes, _ in counts.values() for outcome in outcomes}
    not_executed = outcome_name(None)
    if present - {not_executed}:
        present.add(PASSED)
    columns = sorted(present, key=lambda outcome: (outcome != PASSED, outcome))
    rows: list[list[Value]] = []
    for (stage, benchmark), (outcomes, on_page) in counts.items():
        executed = set(outcomes) != {not_executed}
        cells = (
            _count(on_page[outcome], outcomes[outcome]) if executed or on_page[outcome] else None
            for outcome in columns
        )
        name = stage_cell(stage, benchmark_title(benchmark))
        rows.append([name, _count(on_page.total(), outcomes.total()), *cells])
    return table(
        "Samples shown and in total",
        ["", "all", *columns],
        rows,
        footnote=f"At most {MAX_SHOWN} per stage and benchmark: passed samples first, up to half, "
        "then every kind of failure, spread evenly over the file. samples.jsonl of the evaluations "
        "contains all samples.",
    )


def _count(num_shown: int, total: int) -> str:
    return f"{total:,}" if num_shown == total else f"{num_shown:,} of {total:,}"


def _sources(results: RunResults) -> tuple[TableSource, ...]:
    return sources_of(artifact for _, _, artifact in _evaluations(results))


def _first_record(artifact: Artifact, store: Store) -> dict[str, Any] | None:
    """The first sample that passed, otherwise the first sample."""
    first: dict[str, Any] | None = None
    for record in read_jsonl(store.fetch_verified(artifact) / "samples.jsonl"):
        if first is None or record["outcome"] == PASSED:
            first = record
        if first["outcome"] in (PASSED, None):
            break
    return first


class _SampleFormatter:
    """Turns records of an evaluation's `samples.jsonl` into code samples."""

    def __init__(self, stage: str, benchmark: str, artifact: Artifact, store: Store) -> None:
        self._stage = stage
        self._benchmark = benchmark_title(benchmark)
        result = read_json(store.fetch_verified(artifact) / "results.json")
        self._sets: dict[str, Any] = result["sets"]

    def sample(self, record: dict[str, Any]) -> CodeSample:
        """A record as a code sample."""
        outcome = record["outcome"]
        exception = record["exception_type"]
        task = str(record["task_id"])
        completions = [record["completion"]] if "completion" in record else record["completions"]
        task = task if task.startswith(self._benchmark) else f"{self._benchmark} {task}"
        verdict = outcome_name(outcome)
        stage = stage_title(self._stage)
        sample_set = set_name(record["set"], self._sets[record["set"]])
        return CodeSample(
            stage=self._stage,
            heading=f"{stage}, {task}, {sample_set}, sample {record['sample']}",
            verdict=f"{verdict}: {exception}" if exception else verdict,
            tone="good" if outcome == PASSED else "bad" if outcome else "quiet",
            turns=tuple(zip(record["prompts"], completions, strict=True)),
            subtext=_length_note(record, len(completions)),
            filter_values=(stage, self._benchmark, sample_set, verdict),
        )


def _length_note(record: dict[str, Any], num_turns: int) -> str:
    """Tokens of a sample, and how many of its turns were truncated or unfinished."""
    notes = [f"{record['num_tokens']:,} tokens"]
    for name, number in (
        ("truncated", record["num_truncated"]),
        ("unfinished", record["num_unfinished"]),
    ):
        if number:
            notes.append(name if num_turns == 1 else f"{number} of {num_turns} turns {name}")
    return ", ".join(notes)
