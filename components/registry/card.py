"""The model card: what a person should know before using a registered version, in Markdown.

Design decision: written from records alone (checkpoint, evaluations), so it can be written again at any time and states
nothing that was not measured. Not covered yet: confidence intervals, contamination counts, licence notes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from components.core.artifact import Artifact
from components.core.network import without_password
from components.registry.naming import flatten, numbers


def model_card(name: str, checkpoint: Artifact, evaluations: Mapping[str, Artifact], dvc_md5: str, tracking_uri: str) -> str:
    """The card of a checkpoint under the name it is registered as; `evaluations` by benchmark.

    `tracking_uri` is where it is registered; it stands in the card without its password.
    """
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
        "## Loading it",
        _loading(name, tracking_uri),
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


def _loading(name: str, tracking_uri: str) -> str:
    """MLflow finds a model by name only where it is told the registry; without, it makes an empty database of its own."""
    return (
        f"```python\nimport mlflow\n\nmlflow.set_tracking_uri({json.dumps(without_password(tracking_uri))})\n"
        f'pipeline = mlflow.transformers.load_model("models:/{name}/VERSION")  # or @champion, where it is promoted\n```'
    )


def _text(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |" for left, right in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines]) if lines else ""
