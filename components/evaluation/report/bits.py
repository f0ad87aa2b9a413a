"""Held-out bits per byte: the matrix of stages against domains, and what it says about the paper's first claim.

One decision: below the stages stands what a uniform guess over the vocabulary would cost, log2(ids) * tokens / bytes. It
needs no measurement and gives the first stage, which has no predecessor, something to have improved upon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from components.core.files import read_json
from components.core.store import Store
from components.evaluation.report.cells import NOTHING, Cell, Column, Source, Table
from components.evaluation.report.page import Block, Section, Verdict
from components.evaluation.report.plots import DotChart
from components.evaluation.report.results import STAGE_NAMES, STAGES, RunResults
from components.evaluation.report.wording import listed

PYTHON = "mono/Python"
"""The held-out split on which the stages are compared."""

Matrix = dict[str, dict[str, float]]
"""Bits per byte by stage, then by split."""

_GROUPS = {
    "nl": "NL corpus",
    "multi": "Multi corpus",
    "mono": "Mono corpus",
    "humaneval": "HumanEval",
}


def bits_section(results: RunResults, store: Store) -> Section:
    """The matrix as a chart and as a table, and its verdicts."""
    splits = _read(results, store)
    if not splits:
        missing = Verdict(None, "Bits per byte were not measured in this run.")
        return Section(anchor="bits", title="Bits per byte", blocks=(missing,))
    matrix = {
        stage: {name: float(row["bits_per_byte"]) for name, row in splits[stage].items()}
        for stage in splits
    }
    columns = _ordered(matrix)
    blocks: tuple[Block, ...] = (
        *claims(matrix, _uniform(results, store, splits), results.stages),
        _chart(matrix, columns),
        _table(results, store, splits, matrix, columns),
    )
    lead = "How many bits a model needs for one byte of text it has never seen. Lower is better, whatever the tokenizer."
    return Section(anchor="bits", title="Bits per byte", lead=lead, blocks=blocks)


def matrix_of(results: RunResults, store: Store) -> Matrix:
    """Bits per byte by stage and split, as measured."""
    return {
        stage: {name: float(row["bits_per_byte"]) for name, row in rows.items()}
        for stage, rows in _read(results, store).items()
    }


def _read(results: RunResults, store: Store) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    found = {stage: results.evaluations.get((stage, "bits-per-byte")) for stage in STAGES}
    return {
        stage: read_json(store.fetch_verified(one) / "results.json")["splits"]
        for stage, one in found.items()
        if one
    }


def _ordered(matrix: Matrix) -> list[str]:
    """Every split that some stage was measured on: by corpus, in the order of the stages."""
    names = list(dict.fromkeys(name for row in matrix.values() for name in row))
    order = list(_GROUPS)
    return sorted(
        names, key=lambda name: order.index(_group(name)) if _group(name) in order else len(order)
    )


def _group(split: str) -> str:
    return split.partition("/")[0]


def _uniform(
    results: RunResults, store: Store, splits: dict[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, float]:
    """Bits per byte of a uniform guess, by split."""
    if not results.prepared:
        return {}
    num_ids = read_json(store.fetch_verified(next(iter(results.prepared.values()))) / "index.json")[
        "num_ids"
    ]
    rows = {name: row for stage in splits.values() for name, row in stage.items()}
    return {
        name: math.log2(num_ids) * row["num_tokens"] / row["num_bytes"]
        for name, row in rows.items()
    }


def claims(
    matrix: Matrix, uniform: Mapping[str, float], stages: Sequence[str]
) -> tuple[Verdict, ...]:
    """Whether the figures bear out that each of the stages that were trained helps: on Python, and on its own domain."""
    return (python_claim(matrix, stages), _own_domains(matrix, uniform, stages))


def python_claim(matrix: Matrix, stages: Sequence[str]) -> Verdict:
    """Held-out Python: each stage below the one before, Mono below Multi below NL."""
    known = {
        stage: matrix[stage][PYTHON]
        for stage in reversed(stages)
        if PYTHON in matrix.get(stage, {})
    }
    if len(known) < len(stages) or not known:
        return Verdict(
            None,
            "Held-out Python was not measured after every stage, so the stages cannot be compared.",
        )
    numbers = (
        ", ".join(f"{STAGE_NAMES[stage]} {figure:.3f}" for stage, figure in known.items())
        + " bits per byte"
    )
    if len(known) == 1:
        return Verdict(
            None,
            f"On held-out Python: {numbers}. It is the only stage, so there is nothing to compare it with.",
        )
    pairs = list(pairwise(known))
    if all(known[later] < known[earlier] for later, earlier in pairs):
        first, *others = [(STAGE_NAMES[later], STAGE_NAMES[earlier]) for later, earlier in pairs]
        better = listed(
            [
                f"{first[0]} is better than {first[1]}",
                *(f"{one} better than {other}" for one, other in others),
            ]
        )
        return Verdict(True, f"On held-out Python, {better}: {numbers}.")
    order = " < ".join(STAGE_NAMES[stage] for stage in known)
    return Verdict(False, f"On held-out Python the order {order} does not hold: {numbers}.")


def _own_domains(matrix: Matrix, uniform: Mapping[str, float], stages: Sequence[str]) -> Verdict:
    """Every stage below its predecessor on each held-out split of its own corpus. The first, also where it starts from a
    model, which is not measured here: below a uniform guess."""
    said: list[str] = []
    failed: list[str] = []
    before: Mapping[str, float] = uniform
    for stage in stages:
        row = matrix.get(stage, {})
        own = [name for name in row if _group(name) == stage and name in before]
        if not own:
            return Verdict(
                None, f"{STAGE_NAMES[stage]} was not measured on its own domain, before and after."
            )
        worse = [name for name in own if row[name] >= before[name]]
        failed += [
            f"{STAGE_NAMES[stage]} did not lower {_said(name, before, row)}" for name in worse
        ]
        said.append(
            f"{STAGE_NAMES[stage]} {_said(own[0], before, row)}"
            if len(own) == 1
            else _many(stage, own, before, row)
        )
        before = row
    if not said:
        return Verdict(None, "No stage was trained in this run.")
    if failed:
        return Verdict(False, f"Not every stage lowered its own domain: {listed(failed)}.")
    return Verdict(
        True,
        f"Every stage lowered its own domain: {listed(said)} ({STAGE_NAMES[stages[0]]} against a uniform guess).",
    )


def _said(split: str, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    return f"{split.partition('/')[2]} {before[split]:.2f} \u2192 {after[split]:.2f}"


def _many(
    stage: str, own: list[str], before: Mapping[str, float], after: Mapping[str, float]
) -> str:
    mean_before, mean_after = (sum(row[name] for name in own) / len(own) for row in (before, after))
    return f"{STAGE_NAMES[stage]} its {len(own)} languages, on average {mean_before:.2f} \u2192 {mean_after:.2f}"


def _label(split: str) -> str:
    group, _, name = split.partition("/")
    return "canonical" if group == "humaneval" else name


def _chart(matrix: Matrix, columns: list[str]) -> DotChart:
    rows = []
    for name in columns:
        group, _, language = name.partition("/")
        label = f"HumanEval {language}" if group == "humaneval" else f"{language} ({group})"
        rows.append((label, {stage: row[name] for stage, row in matrix.items() if name in row}))
    return DotChart(
        title="Held-out bits per byte after each stage",
        description="One row per domain, one dot per stage; further left is better.",
        x_label="bits per byte",
        rows=tuple(rows),
        names={stage: STAGE_NAMES[stage] for stage in matrix},
    )


def _table(
    results: RunResults,
    store: Store,
    splits: dict[str, Mapping[str, Mapping[str, Any]]],
    matrix: Matrix,
    columns: list[str],
) -> Table:
    best = {name: min(row[name] for row in matrix.values() if name in row) for name in columns}
    rows = [
        (
            Cell(text=STAGE_NAMES[stage], mark=stage),
            *(_cell(splits[stage].get(name), best[name]) for name in columns),
        )
        for stage in matrix
    ]
    if uniform := _uniform(results, store, splits):
        guess = (
            Cell(text=f"{uniform[name]:.3f}" if name in uniform else "\u2013", tone="quiet")
            for name in columns
        )
        rows.append((Cell(text="uniform guess", tone="quiet"), *guess))
    return Table(
        caption="Held-out bits per byte, lowest of each column emphasised",
        columns=(
            Column(title="after", numeric=False),
            *(Column(title=_label(n), group=_GROUPS.get(_group(n), "")) for n in columns),
        ),
        rows=tuple(rows),
        sources=tuple(Source.of(results.evaluations[stage, "bits-per-byte"]) for stage in matrix),
    )


def _cell(row: Mapping[str, Any] | None, best: float) -> Cell:
    if row is None:
        return NOTHING
    value = float(row["bits_per_byte"])
    title = f"{value!r} bits per byte over {row['num_bytes']:,} bytes, {row['num_tokens']:,} tokens"
    return Cell(text=f"{value:.3f}", title=title, tone="best" if value == best else "plain")
