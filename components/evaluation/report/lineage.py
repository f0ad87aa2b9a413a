"""Where everything came from: the pinned raw data at the root, one row per stage, digests short, whole when pointed at."""

from __future__ import annotations

from components.core.artifact import Artifact
from components.evaluation.report.cells import Cell, Column, Table
from components.evaluation.report.page import Lineage, Node, Section
from components.evaluation.report.results import STAGE_NAMES, STAGES, RegisteredVersion, RunResults
from components.evaluation.report.wording import digest, size


def lineage_section(results: RunResults) -> Section:
    """The chain as a picture."""
    lead = "Each artifact states the SHA-256 of its files and of its inputs. Point at a short digest to see the whole."
    return Section(anchor="lineage", title="Lineage", lead=lead, blocks=(_picture(results),))


def _picture(results: RunResults) -> Lineage:
    pins = {
        str(one.provenance["dvc_md5"])
        for one in results.raw.values()
        if "dvc_md5" in one.provenance
    }
    roots = [Node(label="data.dvc", digest=digest(md5), title=f"md5 {md5}") for md5 in sorted(pins)]
    roots += [_node(one, "vocabulary") for name, one in results.raw.items() if name == "vocabulary"]
    roots += [_node(results.tokenizer, "tokenizer")] if results.tokenizer else []
    roots += (
        [_node(results.initial, "initial model", results.initial.name)] if results.initial else []
    )
    return Lineage(
        roots=tuple(roots),
        columns=("raw corpus", "prepared corpus", "checkpoint", "evaluations", "registered"),
        rows=tuple((stage, STAGE_NAMES[stage], _row(results, stage)) for stage in STAGES),
    )


def _row(results: RunResults, stage: str) -> tuple[tuple[Node, ...], ...]:
    raw, prepared, checkpoint = (
        results.raw.get(stage),
        results.prepared.get(stage),
        results.checkpoints.get(stage),
    )
    versions = [one for one in results.registered if results.stage_of(one) == stage]
    return (
        (_node(raw, stage),) if raw else (),
        (_node(prepared, stage),) if prepared else (),
        (_node(checkpoint, checkpoint.name, _start(results, checkpoint)),) if checkpoint else (),
        tuple(_node(one, kind) for (of, kind), one in results.evaluations.items() if of == stage),
        tuple(_version(one, checkpoint) for one in versions),
    )


def _start(results: RunResults, checkpoint: Artifact) -> str:
    """Whose weights a stage started from, as its artifact says."""
    initial = next((one for one in checkpoint.parents if one.role == "initial"), None)
    if initial is None:
        return "from random weights"
    named = next(
        (
            STAGE_NAMES[stage]
            for stage in results.stages
            if results.checkpoints[stage].digest == initial.digest
        ),
        None,
    )
    return f"from {named or initial.name}"


def _node(artifact: Artifact, label: str, note: str = "") -> Node:
    title = f"{artifact.label}, SHA-256 {artifact.digest}"
    return Node(label=label, digest=digest(artifact.digest), title=title, note=note)


def _version(version: RegisteredVersion, checkpoint: Artifact | None) -> Node:
    return Node(
        label=f"version {version.version}",
        digest=f"@{version.alias}" if version.alias else "no alias",
        title=f"models:/{version.name}/{version.version}",
        note=f"holds {digest(checkpoint.digest)}" if checkpoint else "",
    )


def artifact_table(results: RunResults) -> Table:
    """Every artifact of the run, with its inputs."""
    everything = [*results.raw.values(), *results.steps()]
    return Table(
        caption=f"All {len(everything)} artifacts with their inputs",
        columns=(
            Column(title="artifact", numeric=False),
            Column(title="digest", numeric=False),
            Column(title="made from", numeric=False),
            Column(title="files"),
            Column(title="size"),
        ),
        rows=tuple(_artifact(one) for one in everything),
    )


def _artifact(artifact: Artifact) -> tuple[Cell, ...]:
    inputs = [f"{parent.role} {digest(parent.digest)}" for parent in artifact.parents]
    return (
        Cell(text=artifact.label, title=artifact.address, code=True),
        Cell.digest(artifact.digest),
        Cell(text=" \u00b7 ".join(inputs) or "pinned archives", tone="quiet", code=bool(inputs)),
        Cell(text=f"{len(artifact.files):,}"),
        Cell(text=size(sum(file.size_bytes for file in artifact.files))),
    )
