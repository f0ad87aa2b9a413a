"""The bits-per-byte section: stages against held-out domains, and the paper's first claim.

The last row is a uniform distribution over the vocabulary, log2(ids) * tokens / bytes. It needs no
measurement and is the baseline of the first stage, which has no predecessor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_json
from components.core.store import Store
from components.report.charts import DotChart, LineChart, Point, Series
from components.report.formatting import count, join_words
from components.report.page import Section, Statement, section
from components.report.results import RunResults, stage_title
from components.report.table import Cell, Column, Table, Value, sources_of, stage_cell, table

PYTHON = "mono/Python"
"""The held-out split on which the stages are compared."""

Row = Mapping[str, float]
"""Bits per byte by split."""
Splits = Mapping[str, Mapping[str, Any]]
"""The splits of an evaluation's `results.json`: bits per byte, bytes and tokens."""

PAPER_STAGES = ("nl", "multi", "mono")
"""The stages whose order on Python the paper claims (docs/paper.md, claim 1)."""
_HUMANEVAL = "humaneval"
"""The group of HumanEval's canonical solutions."""


def bits_section(results: RunResults, store: Store) -> Section:
    """The two claims, and the values as a chart and as a table."""
    splits = _splits(results, store)
    lead = (
        "Bits that a model needs per byte of held-out text. Lower is better, independent of the "
        "tokenizer."
    )
    if not splits:
        missing = Statement(None, "Bits per byte were not measured in this run.")
        return section("bits", "Bits per byte", lead, missing)
    values = _values(splits)
    baseline = _uniform_baseline(results, store, splits)
    columns = _ordered_splits(values, list(results.prepared))
    return section(
        "bits",
        "Bits per byte",
        lead,
        python_claim(values, results.stages),
        _domain_claim(values, baseline, results),
        _chart(values, columns),
        _training_chart(results, store),
        _matrix(results, splits, baseline, columns),
    )


def bits_per_byte(results: RunResults, store: Store) -> dict[str, Row]:
    """Bits per byte by stage and split, as measured."""
    return _values(_splits(results, store))


def _splits(results: RunResults, store: Store) -> dict[str, Splits]:
    evaluations = results.evaluations_of("bits-per-byte")
    return {stage: _read_splits(artifact, store) for stage, artifact in evaluations.items()}


def _read_splits(evaluation: Artifact, store: Store) -> Splits:
    splits: Splits = read_json(store.fetch_verified(evaluation) / "results.json")["splits"]
    return splits


def _values(splits: Mapping[str, Splits]) -> dict[str, Row]:
    return {
        stage: {split: float(record["bits_per_byte"]) for split, record in records.items()}
        for stage, records in splits.items()
    }


def _ordered_splits(values: Mapping[str, Row], order: list[str]) -> list[str]:
    """Every split on which a stage was measured, in the order of the corpora."""
    splits = list(dict.fromkeys(split for row in values.values() for split in row))
    return sorted(
        splits,
        key=lambda split: order.index(_group(split)) if _group(split) in order else len(order),
    )


def _group(split: str) -> str:
    return split.partition("/")[0]


def _uniform_baseline(results: RunResults, store: Store, splits: Mapping[str, Splits]) -> Row:
    """Bits per byte of a uniform distribution over the vocabulary, by split."""
    if not results.prepared:
        return {}
    corpus = next(iter(results.prepared.values()))
    num_ids = read_json(store.fetch_verified(corpus) / "index.json")["num_ids"]
    records = {split: record for stage in splits.values() for split, record in stage.items()}
    return {
        split: math.log2(num_ids) * record["num_tokens"] / record["num_bytes"]
        for split, record in records.items()
    }


def python_claim(values: Mapping[str, Row], stages: Sequence[str]) -> Statement:
    """Whether each stage of the paper is below its predecessor on held-out Python: Mono < Multi <
    NL. The paper claims nothing about other stages."""
    stages = [stage for stage in stages if stage in PAPER_STAGES]
    python = {
        stage: values[stage][PYTHON]
        for stage in reversed(stages)
        if PYTHON in values.get(stage, {})
    }
    if len(python) < len(stages) or not python:
        return Statement(
            None,
            "Held-out Python was not measured after every stage, so the stages cannot be compared.",
        )
    values_text = ", ".join(f"{stage_title(stage)} {value:.3f}" for stage, value in python.items())
    numbers = f"{values_text} bits per byte"
    if len(python) == 1:
        return Statement(
            None, f"On held-out Python: {numbers}. It is the only stage, so there is no comparison."
        )
    pairs = list(pairwise(python))
    if all(python[later] < python[earlier] for later, earlier in pairs):
        better = join_words(
            [
                f"{stage_title(later)} is better than {stage_title(earlier)}"
                for later, earlier in pairs
            ]
        )
        return Statement(True, f"On held-out Python, {better}: {numbers}.")
    order = " < ".join(stage_title(stage) for stage in python)
    return Statement(False, f"On held-out Python the order {order} does not hold: {numbers}.")


def _domain_claim(values: Mapping[str, Row], baseline: Row, results: RunResults) -> Statement:
    """Whether each stage is below its predecessor on every held-out split of its own corpus.

    The first stage is compared with the uniform baseline, even if it started from a model, which is
    not measured here.
    """
    lowered: list[str] = []
    failed: list[str] = []
    previous = baseline
    for stage in results.stages:
        row = values.get(stage, {})
        name = stage_title(stage)
        corpus = results.corpus_of(stage)
        splits = [split for split in row if _group(split) == corpus and split in previous]
        if not splits:
            return Statement(
                None, f"{name} was not measured on its own domain before and after its training."
            )
        failed += [
            f"{name} did not lower {_change(split, previous, row)}"
            for split in splits
            if row[split] >= previous[split]
        ]
        lowered.append(f"{name} {_summary(splits, previous, row)}")
        previous = row
    if not lowered:
        return Statement(None, "No stage was trained in this run.")
    if failed:
        return Statement(
            False,
            f"Not every stage lowered the bits per byte of its own domain: {join_words(failed)}.",
        )
    reference = f"{stage_title(results.stages[0])} against a uniform distribution"
    return Statement(
        True,
        f"Every stage lowered the bits per byte of its own domain: {join_words(lowered)} "
        f"({reference}).",
    )


def _change(split: str, previous: Row, row: Row) -> str:
    return f"{split.partition('/')[2]} {previous[split]:.2f} \u2192 {row[split]:.2f}"


def _summary(splits: list[str], previous: Row, row: Row) -> str:
    """The change of the only split, or the mean change of several."""
    if len(splits) == 1:
        return _change(splits[0], previous, row)
    mean_before, mean_after = (
        sum(values[split] for split in splits) / len(splits) for values in (previous, row)
    )
    return f"mean of {len(splits)} languages {mean_before:.2f} \u2192 {mean_after:.2f}"


def _training_chart(results: RunResults, store: Store) -> LineChart | None:
    """Bits per byte on the languages of each stage over its tokens; None if no checkpoint inside a
    stage was evaluated."""
    series: list[Series] = []
    sources: list[Artifact] = []
    start = 0.0
    finished = results.evaluations_of("bits-per-byte")
    for stage, by_tokens in results.during_training.items():
        num_tokens = results.checkpoints[stage].statistics["tokens"]
        if not by_tokens or stage not in finished or not isinstance(num_tokens, int):
            continue
        evaluations = {**by_tokens, num_tokens: finished[stage]}
        points = []
        for tokens, evaluation in sorted(evaluations.items()):
            bits = fmean(
                float(record["bits_per_byte"])
                for split, record in _read_splits(evaluation, store).items()
                if _group(split) == results.corpus_of(stage)
            )
            label = f"{stage_title(stage)} at {count(tokens)} tokens: {bits:.3f} bits per byte"
            points.append(Point(x=start + tokens, y=bits, label=label))
        line = tuple((point.x, point.y) for point in points)
        name = stage_title(stage)
        series.append(Series(stage=stage, name=name, points=tuple(points), faint=(line,)))
        sources += evaluations.values()
        start += num_tokens
    if not series:
        return None
    return LineChart(
        title="Bits per byte during training",
        description="Held-out bits per byte of checkpoints inside the stages against tokens.",
        x_label="trained tokens, stages with evaluated checkpoints",
        y_label="bits per byte",
        series=tuple(series),
        caption="Mean over the languages of the stage's corpus, at each checkpoint that "
        "`codegen eval follow` evaluated and at the end of the stage.",
        sources=sources_of(sources),
    )


def _chart(values: Mapping[str, Row], splits: list[str]) -> DotChart:
    rows = []
    for split in splits:
        group, _, language = split.partition("/")
        label = f"HumanEval {language}" if group == "humaneval" else f"{language} ({group})"
        rows.append((label, {stage: row[split] for stage, row in values.items() if split in row}))
    return DotChart(
        title="Held-out bits per byte after each stage",
        description="One row per domain, one dot per stage; further left is better.",
        x_label="bits per byte",
        rows=tuple(rows),
        names={stage: stage_title(stage) for stage in values},
    )


def _matrix(
    results: RunResults, splits: Mapping[str, Splits], baseline: Row, names: list[str]
) -> Table:
    rows: list[list[Value]] = []
    for stage, records in splits.items():
        cells = [_cell(records.get(name), name, splits) for name in names]
        rows.append([stage_cell(stage), *cells])
    if baseline:
        cells = [
            Cell(f"{baseline[name]:.3f}", tone="quiet") if name in baseline else None
            for name in names
        ]
        rows.append([Cell("uniform baseline", tone="quiet"), *cells])
    return table(
        "Held-out bits per byte, lowest of each column in bold",
        [
            "after stage",
            *(Column(_title(name), group=_group_title(_group(name))) for name in names),
        ],
        rows,
        results.evaluations_of("bits-per-byte").values(),
    )


def _group_title(group: str) -> str:
    return "HumanEval" if group == _HUMANEVAL else f"{stage_title(group)} corpus"


def _title(split: str) -> str:
    group, _, language = split.partition("/")
    return "canonical" if group == _HUMANEVAL else language


def _cell(
    record: Mapping[str, Any] | None, split: str, splits: Mapping[str, Splits]
) -> Cell | None:
    if record is None:
        return None
    lowest = min(
        float(records[split]["bits_per_byte"]) for records in splits.values() if split in records
    )
    value = float(record["bits_per_byte"])
    title = (
        f"{value!r} bits per byte over {record['num_bytes']:,} bytes, "
        f"{record['num_tokens']:,} tokens"
    )
    return Cell(f"{value:.3f}", title=title, tone="best" if value == lowest else "plain")
