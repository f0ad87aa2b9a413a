"""The sections on lineage, steps and provenance: inputs, build times, code and environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from components.core.artifact import Artifact
from components.core.files import read_json
from components.core.store import Store
from components.report.formatting import count, duration, plural, short_digest, size
from components.report.page import KeyValueList, Lineage, LineageRow, Node, Section, section
from components.report.results import (
    RegisteredVersion,
    RunResults,
    attempts_note,
    build_seconds,
    last_attempt_seconds,
    stage_title,
    total_seconds,
)
from components.report.table import Cell, Table, Value, digest_cell, table


def lineage_section(results: RunResults) -> Section:
    """From the pinned raw data to the registered versions, a row per stage."""
    lead = (
        "Each artifact records the SHA-256 of its files and of its inputs. Hover over a short "
        "digest for the full one."
    )
    pins: dict[str, str] = {}
    for raw in results.raw.values():
        pins |= cast(dict[str, str], raw.provenance.get("dvc_pins", {}))
    roots = [
        Node(label=file, digest=short_digest(md5), title=f"md5 {md5}")
        for file, md5 in sorted(pins.items())
    ]
    inputs = {"vocabulary": results.raw.get("vocabulary"), "tokenizer": results.tokenizer}
    roots += [_node(artifact, label) for label, artifact in inputs.items() if artifact]
    if results.initial:
        roots.append(_node(results.initial, "initial model", results.initial.name))
    lineage = Lineage(
        roots=tuple(roots),
        columns=("raw corpus", "prepared corpus", "checkpoint", "evaluations", "registered"),
        rows=tuple(_lineage_rows(results)),
    )
    return section("lineage", "Lineage", lead, lineage)


def _lineage_rows(results: RunResults) -> Iterator[LineageRow]:
    """Yield a row per corpus without a stage, then a row per stage."""
    corpora = {stage: results.corpus_of(stage) for stage in results.stages}
    for name in results.prepared:
        if name not in corpora.values():
            yield _lineage_row(results, "", name)
    for stage, corpus in corpora.items():
        yield _lineage_row(results, stage, corpus)


def _lineage_row(results: RunResults, stage: str, corpus: str) -> LineageRow:
    raw = results.raw.get(corpus)
    prepared = results.prepared.get(corpus)
    checkpoint = results.checkpoints.get(stage)
    checkpoint_nodes: tuple[Node, ...] = ()
    if checkpoint:
        initial = _initial_weights(results, checkpoint)
        checkpoint_nodes = (_node(checkpoint, checkpoint.name, initial),)
    evaluations = [
        (kind, artifact) for (name, kind), artifact in results.evaluations.items() if name == stage
    ]
    versions = [version for version in results.registered if results.stage_of(version) == stage]
    cells = (
        (_node(raw, corpus),) if raw else (),
        (_node(prepared, corpus),) if prepared else (),
        checkpoint_nodes,
        tuple(_node(artifact, kind) for kind, artifact in evaluations),
        tuple(_version_node(version, checkpoint) for version in versions),
    )
    return LineageRow(stage=stage, title=stage_title(stage or corpus), cells=cells)


def _initial_weights(results: RunResults, checkpoint: Artifact) -> str:
    """The weights that a stage started from, according to its artifact."""
    initial = next((parent for parent in checkpoint.parents if parent.role == "initial"), None)
    if initial is None:
        return "from random weights"
    stages = {
        artifact.digest: stage_title(stage) for stage, artifact in results.checkpoints.items()
    }
    return f"from {stages.get(initial.digest, initial.name)}"


def _node(artifact: Artifact, label: str, subtext: str = "") -> Node:
    title = f"{artifact.label}, SHA-256 {artifact.digest}"
    return Node(label=label, digest=short_digest(artifact.digest), title=title, subtext=subtext)


def _version_node(version: RegisteredVersion, checkpoint: Artifact | None) -> Node:
    return Node(
        label=f"version {version.version}",
        digest=f"@{version.alias}" if version.alias else "no alias",
        title=f"models:/{version.name}/{version.version}",
        subtext=f"of {short_digest(checkpoint.digest)}" if checkpoint else "",
    )


def steps_section(results: RunResults, store: Store) -> Section:
    """Build time and tokens of every step, and which steps were reused."""
    steps = list(results.steps())
    times = [build_seconds(artifact, store) for artifact in steps]
    longest = max((seconds for seconds in times if seconds is not None), default=0.0)
    new = total_seconds(
        last_attempt_seconds(artifact) for artifact in steps if artifact.label not in results.reused
    )
    new_steps = "an unknown time" if new is None else duration(new)
    step_table = table(
        f"{plural(len(steps), 'step')}: {new_steps} for new steps, {duration(results.total_s)} "
        "for the whole run",
        ["step", "digest", "this run", "build time", "tokens", "tokens/s"],
        [
            _step_row(step, results, store, seconds, longest)
            for step, seconds in zip(steps, times, strict=True)
        ],
        footnote="Build time: recorded by the store when the artifact was built; a reused artifact "
        "took no time in this run. For a stage that was interrupted and resumed: the time of its "
        "steps in all attempts, recorded by the trainer. Tokens: prepared, trained, scored or "
        "sampled.",
        num_text_columns=3,
    )
    return section("steps", "Time and tokens", "", step_table)


def _step_row(
    artifact: Artifact, results: RunResults, store: Store, seconds: float | None, longest: float
) -> tuple[Value, ...]:
    reused = artifact.label in results.reused
    tokens = _num_tokens(artifact, store)
    return (
        Cell(f"{artifact.kind} {artifact.name}", title=artifact.label),
        digest_cell(artifact.digest),
        Cell("reused", tone="quiet") if reused else "built",
        Cell(
            "unknown" if seconds is None else duration(seconds),
            tone="quiet" if reused or seconds is None else "plain",
            share=seconds / longest if seconds and longest and not reused else None,
            subtext=attempts_note(artifact),
        ),
        Cell(count(tokens), title=f"{tokens:,}") if tokens else None,
        count(tokens / seconds) if tokens and seconds else None,
    )


def _num_tokens(artifact: Artifact, store: Store) -> int | None:
    """Tokens that a step prepared, trained, scored or sampled, if its artifact records them."""
    tokens: Any = None
    if artifact.kind == "checkpoint":
        tokens = artifact.statistics.get("tokens")
    elif artifact.kind == "prepared-corpus":
        languages: Any = artifact.statistics.get("languages", {})
        tokens = sum(
            counts["train_tokens"] + counts["held_out_tokens"] for counts in languages.values()
        )
    elif artifact.kind == "samples":
        tokens = artifact.statistics.get("num_tokens")
    elif artifact.kind == "evaluation":
        splits = read_json(store.fetch_verified(artifact) / "results.json").get("splits", {})
        tokens = sum(record["num_tokens"] for record in splits.values()) or None
    return tokens if isinstance(tokens, int) else None


def provenance_section(results: RunResults) -> Section:
    """Commit and time of this run, environment of the newest artifact, and every artifact with its
    inputs."""
    artifacts = sorted(
        results.steps(), key=lambda artifact: str(artifact.provenance.get("created_at"))
    )
    if not artifacts:
        return section("provenance", "Provenance", "")
    newest: dict[str, Any] = dict(artifacts[-1].provenance)
    num_commits = len({str(artifact.provenance.get("git_commit")) for artifact in artifacts})
    packages = [
        f"{name} {version}" for name, version in newest.get("packages", {}).items() if version
    ]
    first_time = artifacts[0].provenance.get("created_at")
    commit = commit_cell(newest)
    if num_commits > 1:
        notes = (commit.subtext, f"the artifacts of this run come from {num_commits} commits")
        commit = replace(commit, subtext="; ".join(filter(None, notes)))
    items = (
        ("this run", Cell(f"started {results.started_at}")),
        ("commit of this run", commit_cell(results.provenance)),
        ("commit of the newest artifact", commit),
        ("host", Cell(str(newest.get("host")), subtext=str(newest.get("platform")))),
        ("CPUs", Cell(str(newest.get("num_cpus")))),
        ("Python", Cell(str(newest.get("python")))),
        ("packages", Cell(", ".join(packages))),
        ("artifacts built", Cell(f"{first_time} to {newest.get('created_at')}")),
    )
    facts = KeyValueList(items=items)
    return section("provenance", "Provenance", "", facts, _artifact_table(results))


def commit_cell(provenance: Mapping[str, Any]) -> Cell:
    """A commit, and whether there were uncommitted changes."""
    commit = str(provenance.get("git_commit", "unknown"))
    is_dirty: bool | None = provenance.get("git_dirty")
    changes = {
        True: "with uncommitted changes",
        False: "",
        None: "uncommitted changes unknown",
    }[is_dirty]
    return Cell(short_digest(commit), title=commit, subtext=changes, code=True)


def _artifact_table(results: RunResults) -> Table:
    artifacts = [*results.raw.values(), *results.steps()]
    return table(
        f"{plural(len(artifacts), 'artifact')} with their inputs",
        ["artifact", "digest", "inputs", "files", "size"],
        [_artifact_row(artifact) for artifact in artifacts],
        num_text_columns=3,
    )


def _artifact_row(artifact: Artifact) -> tuple[Value, ...]:
    inputs = [f"{parent.role} {short_digest(parent.digest)}" for parent in artifact.parents]
    # Files of declared sources stay where they are; their manifest is the artifact.
    origin = "pinned archives" if artifact.files else "declared sources"
    return (
        Cell(artifact.label, title=artifact.address, code=True),
        digest_cell(artifact.digest),
        Cell(" \u00b7 ".join(inputs) or origin, tone="quiet", code=bool(inputs)),
        len(artifact.files) or None,
        size(sum(file.size_bytes for file in artifact.files)) if artifact.files else None,
    )
