"""How long each step took and on how many tokens, who made it with what, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.core.artifact import Artifact
from components.core.files import read_json
from components.core.network import redact_credentials
from components.core.store import Store
from components.evaluation.report.cells import NOTHING, Cell, Column, Table
from components.evaluation.report.lineage import artifact_table
from components.evaluation.report.page import Commands, Facts, Section
from components.evaluation.report.results import RunResults
from components.evaluation.report.timing import (
    num_attempts,
    seconds_of_last_attempt,
    seconds_to_make,
    total,
)
from components.evaluation.report.wording import count, digest, duration


def steps_section(results: RunResults, store: Store) -> Section:
    """Time and tokens of every step; what was reused says so."""
    steps = list(results.steps())
    longest = max(
        (seconds for one in steps if (seconds := seconds_to_make(one, store)) is not None),
        default=0.0,
    )
    made = total(seconds_of_last_attempt(one) for one in steps if one.label not in results.reused)
    said = "an unknown time" if made is None else duration(made)
    rows = tuple(_row(one, results, store, longest) for one in steps)
    table = Table(
        caption=f"{len(steps)} steps; {said} in steps made now, {duration(results.total_s)} for the whole run",
        columns=(
            Column(title="step", numeric=False),
            Column(title="digest", numeric=False),
            Column(title="this run", numeric=False),
            Column(title="time to make"),
            Column(title="tokens"),
            Column(title="tokens/s"),
        ),
        rows=rows,
        footnote="Time to make: recorded by the store when the artifact was built; a reused one cost nothing in this run. "
        "Of a stage that was killed and resumed: the time of its steps in all attempts, as the trainer counted it. "
        "Tokens: written when preparing, trained on, scored, or sampled.",
    )
    return Section(anchor="steps", title="Time and tokens", blocks=(table,))


def _row(artifact: Artifact, results: RunResults, store: Store, longest: float) -> tuple[Cell, ...]:
    reused = artifact.label in results.reused
    seconds, tokens = seconds_to_make(artifact, store), _tokens(artifact, store)
    share = seconds / longest if seconds and longest and not reused else None
    return (
        Cell(text=f"{artifact.kind} {artifact.name}", title=artifact.label),
        Cell.digest(artifact.digest),
        Cell(text="reused" if reused else "made", tone="quiet" if reused else "plain"),
        Cell(
            text="unknown" if seconds is None else duration(seconds),
            tone="quiet" if reused or seconds is None else "plain",
            share=share,
            note=f"{attempts} attempts" if (attempts := num_attempts(artifact)) > 1 else "",
        ),
        Cell(text=count(tokens), title=f"{tokens:,}") if tokens else NOTHING,
        Cell(text=count(tokens / seconds)) if tokens and seconds else NOTHING,
    )


def _tokens(artifact: Artifact, store: Store) -> int | None:
    """Tokens that a step wrote, learnt from, scored or sampled, where its artifact says so."""
    if artifact.kind == "checkpoint":
        tokens: Any = artifact.statistics.get("tokens")
    elif artifact.kind == "prepared-corpus":
        languages: Any = artifact.statistics.get("languages", {})
        tokens = sum(one["train_tokens"] + one["held_out_tokens"] for one in languages.values())
    elif artifact.kind == "samples":
        tokens = artifact.statistics.get("num_tokens")
    elif artifact.kind == "evaluation":
        splits = read_json(store.fetch_verified(artifact) / "results.json").get("splits", {})
        tokens = sum(one["num_tokens"] for one in splits.values()) or None
    else:
        tokens = None
    return tokens if isinstance(tokens, int) else None


def provenance_section(results: RunResults) -> Section:
    """Commit and time of this run; commit, machine and packages of the newest artifact, and a word where others differ."""
    everything = sorted(results.steps(), key=lambda one: str(one.provenance.get("created_at")))
    if not everything:
        return Section(anchor="provenance", title="Provenance", blocks=())
    found: dict[str, Any] = dict(everything[-1].provenance)
    commits = {str(one.provenance.get("git_commit")) for one in everything}
    packages = ", ".join(
        f"{name} {version}" for name, version in found.get("packages", {}).items() if version
    )
    items = [
        ("this run", Cell(text=f"begun {results.made_by.get('created_at', 'at an unknown time')}")),
        ("commit of this run", commit_of(results.made_by)),
        ("commit of the newest artifact", _commit(found, len(commits))),
        ("host", Cell(text=str(found.get("host")), note=str(found.get("platform")))),
        ("processors", Cell(text=str(found.get("num_cpus")))),
        ("Python", Cell(text=str(found.get("python")))),
        ("packages", Cell(text=packages)),
        (
            "artifacts made between",
            Cell(
                text=f"{everything[0].provenance.get('created_at')} and {found.get('created_at')}"
            ),
        ),
    ]
    return Section(
        anchor="provenance",
        title="Provenance",
        blocks=(Facts(tuple(items)), artifact_table(results)),
    )


def _commit(found: dict[str, Any], num_commits: int) -> Cell:
    cell = commit_of(found)
    if num_commits == 1:
        return cell
    notes = [cell.note, f"{num_commits} commits had a part in what this run made or reused"]
    return replace(cell, note="; ".join(note for note in notes if note))


def commit_of(made_by: Mapping[str, Any]) -> Cell:
    """A commit, and whether the code was as committed."""
    commit, dirty = str(made_by.get("git_commit", "unknown")), made_by.get("git_dirty")
    note = "with uncommitted changes" if dirty else "" if dirty is False else "changes unknown"
    return Cell(text=digest(commit), title=commit, note=note, code=True)


def commands_section(results: RunResults) -> Section:
    """What to type next."""
    items = [
        ("codegen ui", "Prefect and MLflow on loopback, over what was just run"),
        ("make run", "the same run again: everything is reused, in seconds"),
        ("codegen artifacts", "everything in the store"),
    ]
    if checkpoint := results.checkpoints.get("mono"):
        items.append(
            (
                f"codegen lineage {checkpoint.label}",
                "what this checkpoint was made from, down to the raw corpora",
            )
        )
        items.append(
            (
                f"codegen why {checkpoint.label}",
                "which setting makes it another one than its nearest sibling",
            )
        )
    items += [
        (
            _load(one.name, one.alias, results.tracking_uri),
            "load the champion, as a pipeline of transformers",
        )
        for one in results.registered
        if one.alias and results.stage_of(one) == "mono"
    ]
    return Section(anchor="next", title="Going on", blocks=(Commands(tuple(items)),))


def _load(name: str, alias: str, tracking_uri: str) -> str:
    """A command that finds the model wherever it is typed; without the URI MLflow would make an empty database there."""
    code = f'import mlflow; print(mlflow.transformers.load_model("models:/{name}@{alias}")("def "))'
    return f"MLFLOW_TRACKING_URI={shlex.quote(redact_credentials(tracking_uri))} python -c '{code}'"
