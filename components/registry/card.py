"""The model card: what a person should know before using a registered version, in Markdown.

Design decision: written from records alone (checkpoint, corpora, evaluations), so it can be written again at any time and
states nothing that was not measured or recorded. The corpora's own card, with every language and rule, lies in MLflow beside
the run that prepared them; here stands what a user of the weights has to know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from components.core.artifact import Artifact
from components.core.markdown import table
from components.core.network import redact_credentials
from components.registry.client.naming import flatten, numbers
from components.registry.tags import git_tags, size_name

_LOW, _HIGH = "_low", "_high"


class Learnt(NamedTuple):
    """A corpus that a model learnt from, in one of the stages that were trained here."""

    corpus: Artifact
    """The prepared corpus."""
    licenses: Mapping[str, Sequence[str]]
    """Its packages by license, as they were recorded when it was pulled."""


def model_card(
    name: str,
    checkpoint: Artifact,
    evaluations: Mapping[str, Artifact],
    dvc_md5: str,
    tracking_uri: str,
    learnt: Sequence[Learnt] = (),
    not_measured: Mapping[str, str] | None = None,
) -> str:
    """The card of a checkpoint under the name it is registered as.

    Args:
        evaluations: by benchmark.
        tracking_uri: where it is registered; it stands in the card without its password.
        learnt: its corpora, in the order in which they were learnt.
        not_measured: benchmarks that were left out, and why.
    """
    num = checkpoint.statistics.get("num_parameters")
    size = f" of {size_name(num)} parameters" if isinstance(num, int) else ""
    parts = [
        f"# {name}",
        f"A CodeGen language model{size} (decoder, rotary positions, parallel blocks) in Hugging Face format. It completes "
        "text; what it writes is not checked, and must not be executed outside a sandbox.",
        "## Loading it",
        _loading(name, tracking_uri),
        "## Data",
        _data(learnt),
        "## Training",
        _training(checkpoint, learnt),
        "## Scores",
        *_scores(evaluations, not_measured or {}),
        "## Limits",
        "\n".join(f"- {one}" for one in _limits(checkpoint, evaluations, learnt)),
        "## Licenses",
        _licenses(learnt),
        "## Origin",
        _origin(checkpoint, dvc_md5),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _loading(name: str, tracking_uri: str) -> str:
    """MLflow finds a model by name only where it is told the registry; without, it makes an empty database of its own."""
    return (
        f"```python\nimport mlflow\n\nmlflow.set_tracking_uri({json.dumps(redact_credentials(tracking_uri))})\n"
        f'pipeline = mlflow.transformers.load_model("models:/{name}/VERSION")  # or @champion, where it is promoted\n```'
    )


def _data(learnt: Sequence[Learnt]) -> str:
    if not learnt:
        return "Not recorded: the model was trained elsewhere, or before corpora were noted here."
    rows = [
        (
            f"{one.corpus.name}, {language}",
            f"{figures['documents']:,}",
            f"{figures['bytes'] / 1e6:,.1f} MB",
            f"{figures['train_tokens']:,}",
            f"{figures['held_out_tokens']:,}",
            f"{sum(figures['rejected'].values()):,}",
            f"{figures['duplicates']:,}",
        )
        for one in learnt
        for language, figures in _languages(one.corpus).items()
    ]
    head = (
        "corpus",
        "documents",
        "text",
        "tokens to train on",
        "held out",
        "left out by a rule",
        "duplicates left out",
    )
    found = [_contamination(one.corpus) for one in learnt]
    return (
        "In the order in which they were learnt. Which rule left out how much stands in `dataset-card.md`, beside the run "
        f"that prepared them.\n\n{_table(head, rows)}\n\n"
        "Documents that hold a piece of a benchmark's problem, as long as `data.decontamination` of the recipe says:\n\n"
        + _table(("corpus", "documents with a problem of a benchmark, all left out"), found)
    )


def _languages(corpus: Artifact) -> Mapping[str, Any]:
    languages: Any = corpus.statistics.get("languages", {})
    return dict(languages)


def _contamination(corpus: Artifact) -> tuple[str, str]:
    counts: Any = corpus.statistics.get("contaminated")
    if not counts:
        return corpus.name, "not searched"
    return corpus.name, ", ".join(
        f"{benchmark} {count:,}" for benchmark, count in sorted(counts.items())
    )


def _training(checkpoint: Artifact, learnt: Sequence[Learnt]) -> str:
    figures = {
        key: value
        for key, value in flatten(checkpoint.statistics, "/").items()
        if value is not None
    }
    rows = [(key.replace("_", " "), _text(value)) for key, value in figures.items()]
    stages = " → ".join(one.corpus.name for one in learnt)
    initial = next((one for one in checkpoint.parents if one.role == "initial"), None)
    told = f"Stages: {stages}. " if stages else ""
    told += (
        f"The weights of `{initial.name}` (SHA-256 `{initial.digest[:12]}`) were its start. "
        if initial
        else ""
    )
    return f"{told}Figures are of the last stage alone; loss is in nats per token.\n\n{_table(('', ''), rows)}"


def _scores(evaluations: Mapping[str, Artifact], not_measured: Mapping[str, str]) -> Iterator[str]:
    """A measure that has bounds beside it stands with them; the rest counts how it was measured."""
    for benchmark, evaluation in sorted(evaluations.items()):
        figures = numbers(evaluation.statistics)
        bounds = {name: (figures.get(name + _LOW), figures.get(name + _HIGH)) for name in figures}
        rows = [
            (
                name,
                _text(value),
                "-" if None in bounds[name] else " to ".join(_text(one) for one in bounds[name]),
            )
            for name, value in figures.items()
            if not (name.endswith((_LOW, _HIGH)) and name.rsplit("_", 1)[0] in figures)
        ]
        yield f"### {benchmark}"
        yield _table(("measure", "value", "95 % interval"), rows)
        if isolation := evaluation.statistics.get("sandbox"):
            yield f"Programs were executed in {isolation}."
    if any(name.endswith(_LOW) for one in evaluations.values() for name in numbers(one.statistics)):
        yield (
            "Intervals: percentile bootstrap over the problems of a benchmark; they say nothing of another seed or corpus, "
            "and 0 to 0 means that no problem was solved, not that none can be."
        )
    for benchmark, reason in sorted(not_measured.items()):
        yield f"**{benchmark} was not measured**: {reason}."
    if not evaluations:
        yield "None."


def _limits(
    checkpoint: Artifact, evaluations: Mapping[str, Artifact], learnt: Sequence[Learnt]
) -> Iterator[str]:
    yield "It was trained to go on with text, not to follow instructions, and what it writes may be wrong or unsafe."
    yield "It may repeat documents that it was trained on, word for word, whatever their license asks for."
    if languages := sorted({language for one in learnt for language in _languages(one.corpus)}):
        yield f"It has seen {', '.join(languages)}, and nothing is known of other languages."
    num, tokens = checkpoint.statistics.get("num_parameters"), checkpoint.statistics.get("tokens")
    if isinstance(num, int) and isinstance(tokens, int) and num:
        yield f"Its last stage saw {tokens:,} tokens, {tokens / num:,.2g} for each parameter."
    for benchmark, one in sorted(evaluations.items()):
        if one.statistics.get("executed") is False:
            yield f"{benchmark}: programs were not executed here ({one.statistics.get('reason')}), so it has no score."
        elif one.statistics.get("executed") and one.statistics.get("isolated") is not True:
            yield f"{benchmark}: programs ran without isolation; one of them may have changed its own score."
    if git_tags(checkpoint)["git_dirty"] != "false":
        yield "The code that trained it is not known to be its commit's: uncommitted changes, or no git."


def _licenses(learnt: Sequence[Learnt]) -> str:
    rows = [
        (one.corpus.name, license, ", ".join(packages))
        for one in learnt
        for license, packages in sorted(one.licenses.items())
    ]
    if not rows:
        return "No license of what it learnt from is recorded."
    return (
        "What it learnt from, as recorded with the corpora. Every record of them names its own, and `data/NOTICE` goes with "
        "the bytes. No license of the weights follows from this table.\n\n"
        + _table(("corpus", "license", "packages"), rows)
    )


def _origin(checkpoint: Artifact, dvc_md5: str) -> str:
    code = git_tags(checkpoint)
    facts = {
        "Checkpoint": f"`{checkpoint.label}`",
        "SHA-256 of its files": f"`{checkpoint.digest}`",
        "Recipe": f"`{checkpoint.recipe}`",
        "Raw data (DVC md5)": f"`{dvc_md5}`",
        "Code": f"`{code['git_commit']}`, uncommitted changes: {code['git_dirty']}",
        "Made": str(checkpoint.provenance.get("created_at", "unknown")),
    }
    made_from = [
        (f"{one.role}: {one.kind}/{one.name}", f"`{one.digest}`") for one in checkpoint.parents
    ]
    return "\n\n".join(
        part
        for part in (_table(("", ""), facts.items()), _table(("made from", "SHA-256"), made_from))
        if part
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Nothing where there are no rows."""
    found = list(rows)
    return table(head, found) if found else ""
