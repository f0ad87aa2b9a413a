"""The first screen: what was run, which model came out of it, and whether the paper's first claim held."""

from __future__ import annotations

from components.core.artifact import Artifact
from components.core.store import Store
from components.evaluation.report.bits import PYTHON, Matrix, matrix_of, python_claim
from components.evaluation.report.cells import Cell, Tone
from components.evaluation.report.page import Block, Card, Cards, Facts, Section, Verdict
from components.evaluation.report.results import STAGE_NAMES, RegisteredVersion, RunResults
from components.evaluation.report.timing import num_attempts, seconds_of_last_attempt, total
from components.evaluation.report.wording import count, duration, listed, percent


def headline(results: RunResults) -> Verdict:
    """One sentence: what was promoted, or why nothing was. The last of several is the one that people came for."""
    promoted = [one for one in results.registered if one.promoted]
    if promoted:
        *others, last = promoted
        alias = f" and is now @{last.alias}" if last.alias else ""
        also = f"; so were {listed([one.name for one in others])}" if len(others) > 1 else ""
        also = f"; so was {others[0].name}" if len(others) == 1 else also
        return Verdict(True, f"{last.name} version {last.version} was promoted{alias}{also}.")
    if kept := [one for one in results.registered if one.alias]:
        last = kept[-1]
        return Verdict(
            True,
            f"{last.name} version {last.version} is @{last.alias} already: this run made the same model.",
        )
    if results.registered:
        reasons = dict.fromkeys(reason for one in results.registered for reason in one.reasons)
        return Verdict(
            False, f"Nothing was promoted: {'; '.join(reasons) or 'the registry gave no reason'}."
        )
    return Verdict(None, "Nothing was registered in this run.")


def summary_section(results: RunResults, store: Store) -> Section:
    """One card per stage, the claim about Python, and the run in figures."""
    matrix = matrix_of(results, store)
    cards = tuple(_card(results, stage, matrix) for stage in results.stages)
    strangers = tuple(_unknown(one) for one in results.registered if results.stage_of(one) is None)
    blocks: list[Block] = [Cards((*cards, *strangers))] if cards or strangers else []
    if matrix:
        blocks.append(python_claim(matrix, results.stages))
    blocks.append(_figures(results))
    return Section(anchor="summary", title="In short", blocks=tuple(blocks))


def _card(results: RunResults, stage: str, matrix: Matrix) -> Card:
    checkpoint = results.checkpoints[stage]
    version = next((one for one in results.registered if results.stage_of(one) == stage), None)
    lines = []
    if python := matrix.get(stage, {}).get(PYTHON):
        lines.append(f"{python:.3f} bits per byte of held-out Python")
    lines.append(_trained(checkpoint))
    state, tone = _state(version)
    lines += version.reasons if version else ()
    return Card(
        mark=stage,
        title=STAGE_NAMES[stage],
        state=state,
        tone=tone,
        lines=tuple(line for line in lines if line),
    )


def _trained(checkpoint: Artifact) -> str:
    tokens, steps = checkpoint.statistics.get("tokens"), checkpoint.statistics.get("steps")
    if not isinstance(tokens, int) or not isinstance(steps, int):
        return ""
    return f"{count(tokens)} tokens in {steps:,} steps"


def _state(version: RegisteredVersion | None) -> tuple[str, Tone]:
    if version is None:
        return "not registered", "quiet"
    name = f"version {version.version}"
    if version.promoted:
        return f"{name} \u00b7 promoted" + (
            f" \u00b7 @{version.alias}" if version.alias else ""
        ), "good"
    return (
        (f"{name} \u00b7 already @{version.alias}", "good")
        if version.alias
        else (f"{name} \u00b7 not promoted", "bad")
    )


def _unknown(version: RegisteredVersion) -> Card:
    state, tone = _state(version)
    return Card(mark="", title=version.name, state=state, tone=tone, lines=version.reasons)


def _figures(results: RunResults) -> Facts:
    checkpoints = list(results.checkpoints.values())
    tokens = sum(
        one for one in (c.statistics.get("tokens") for c in checkpoints) if isinstance(one, int)
    )
    parameters = next(
        (
            one
            for one in (c.statistics.get("num_parameters") for c in checkpoints)
            if isinstance(one, int)
        ),
        None,
    )
    steps = list(results.steps())
    reused = sum(one.label in results.reused for one in steps)
    items = [
        ("this run took", Cell(text=duration(results.total_s))),
        ("of it training", _share_of_training(results)),
        ("tokens trained on", Cell(text=count(tokens), title=f"{tokens:,}")),
        (
            "parameters",
            Cell(text=count(parameters), title=f"{parameters:,}")
            if parameters
            else Cell(text="unknown"),
        ),
        ("steps reused", Cell(text=f"{reused} of {len(steps)}")),
    ]
    return Facts(tuple(items))


def _share_of_training(results: RunResults) -> Cell:
    """The share of this run's time that went into stages trained in it, without what earlier attempts took."""
    made = [one for one in results.checkpoints.values() if one.label not in results.reused]
    if not made:
        return Cell(text="none, all reused" if results.checkpoints else "none")
    seconds = total(seconds_of_last_attempt(one) for one in made)
    resumed = [
        STAGE_NAMES[stage]
        for stage, one in results.checkpoints.items()
        if one in made and num_attempts(one) > 1
    ]
    note = (
        f"{listed(resumed)} went on from an earlier run; only what this run trained counts"
        if resumed
        else ""
    )
    return Cell(
        text=percent(seconds / results.total_s)
        if seconds is not None and results.total_s > 0
        else "unknown",
        note=note,
    )
