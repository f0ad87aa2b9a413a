"""The model card: what a person should know before using a registered version, in Markdown.

Design decision: written from records alone (checkpoint, evaluations), so it can be written again at any time and states
nothing that was not measured. Not covered yet: confidence intervals, contamination counts, licence notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from components.core.artifact import Artifact
from components.registry.naming import flatten, numbers


def model_card(name: str, checkpoint: Artifact, evaluations: Mapping[str, Artifact], dvc_md5: str) -> str:
    """The card of a checkpoint under the name it is registered as; `evaluations` by benchmark."""
    facts = {
        "Checkpoint": f"`{checkpoint.label}`",
        "SHA-256 of its files": f"`{checkpoint.digest}`",
        "Recipe": f"`{checkpoint.recipe}`",
        "Raw data (DVC md5)": f"`{dvc_md5}`",
        "Code": f"`{checkpoint.provenance.get('git_commit', 'unknown')}`",
        "Made": str(checkpoint.provenance.get("created_at", "unknown")),
    }
    parts = [
        f"# {name}",
        "A CodeGen language model (decoder, rotary positions, parallel blocks) in Hugging Face format. It completes text; "
        "what it writes is not checked, and must not be executed outside a sandbox.",
        "## Origin",
        _table(("", ""), facts.items()),
        _table(
            ("made from", "SHA-256"),
            ((f"{one.role}: {one.kind}/{one.name}", f"`{one.digest}`") for one in checkpoint.parents),
        ),
        "## Training",
        _table(("", ""), ((key, _text(value)) for key, value in flatten(checkpoint.statistics, "/").items())),
        "## Evaluation",
    ]
    for benchmark, evaluation in sorted(evaluations.items()):
        figures = numbers(evaluation.statistics).items()
        parts += [f"### {benchmark}", _table(("measure", "value"), ((key, _text(value)) for key, value in figures))]
    if not evaluations:
        parts.append("None.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |" for left, right in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines]) if lines else ""
