"""The tables of the model card; `model-card.md.j2` holds its text.

The card is written from records (checkpoint, corpora, evaluations), so it can be written again at
any time and states only measured or recorded values. The dataset card has the details of the
corpora.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.core.artifact import Artifact
from components.core.markdown import code
from components.core.network import redact_credentials
from components.core.templates import markdown_environment
from components.registry.client.naming import flatten, numbers
from components.registry.lineage import git_tags, size_name

_LOW, _HIGH = "_low", "_high"

Rows = list[tuple[str, ...]]


class TrainingCorpus(NamedTuple):
    """A corpus that a model was trained on, in a stage of this recipe."""

    corpus: Artifact
    """The prepared corpus."""
    licenses: Mapping[str, Sequence[str]]
    """Its packages by license, recorded when the corpus was pulled."""

    @property
    def languages(self) -> dict[str, dict[str, Any]]:
        """The statistics of each language."""
        languages: Any = self.corpus.statistics.get("languages", {})
        return dict(languages)


def model_card(
    name: str,
    checkpoint: Artifact,
    evaluations: Mapping[str, Artifact],
    dvc_md5: str,
    tracking_uri: str,
    corpora: Sequence[TrainingCorpus] = (),
    not_measured: Mapping[str, str] | None = None,
) -> str:
    """The card of a checkpoint as Markdown.

    Args:
        name: the registered model.
        evaluations: by benchmark.
        tracking_uri: the MLflow server; the card contains it without its password.
        corpora: the training corpora in training order.
        not_measured: skipped benchmarks and the reasons.
    """
    template = markdown_environment("components.registry.card").get_template("model-card.md.j2")
    return template.render(
        name=name,
        statistics=checkpoint.statistics,
        size_name=size_name,
        tracking_uri=redact_credentials(tracking_uri),
        corpora=corpora,
        corpus_rows=_corpus_rows(corpora),
        contamination=[_contamination(corpus.corpus) for corpus in corpora],
        initial=next((parent for parent in checkpoint.parents if parent.role == "initial"), None),
        training=_training_rows(checkpoint),
        evaluations={
            benchmark: evaluation.statistics
            for benchmark, evaluation in sorted(evaluations.items())
        },
        scores={
            benchmark: _score_rows(evaluation) for benchmark, evaluation in evaluations.items()
        },
        has_intervals=any(_has_intervals(evaluation) for evaluation in evaluations.values()),
        not_measured=dict(sorted((not_measured or {}).items())),
        languages=sorted({language for corpus in corpora for language in corpus.languages}),
        is_clean=git_tags(checkpoint)["git_dirty"] == "false",
        licenses=_license_rows(corpora),
        origin=_origin_rows(checkpoint, dvc_md5),
        inputs=[
            (f"{parent.role}: {parent.kind}/{parent.name}", code(parent.digest))
            for parent in checkpoint.parents
        ],
    )


def _corpus_rows(corpora: Sequence[TrainingCorpus]) -> Rows:
    return [
        (
            f"{training.corpus.name}, {language}",
            f"{statistics['documents']:,}",
            f"{statistics['bytes'] / 1e6:,.1f} MB",
            f"{statistics['train_tokens']:,}",
            f"{statistics['held_out_tokens']:,}",
            f"{sum(statistics['rejected'].values()):,}",
            f"{statistics['duplicates']:,}",
        )
        for training in corpora
        for language, statistics in training.languages.items()
    ]


def _contamination(corpus: Artifact) -> tuple[str, str]:
    """Rejected documents by benchmark, or that the corpus was not searched."""
    counts: Any = corpus.statistics.get("contaminated")
    if not counts:
        return corpus.name, "not searched"
    return corpus.name, ", ".join(
        f"{benchmark} {number:,}" for benchmark, number in sorted(counts.items())
    )


def _training_rows(checkpoint: Artifact) -> Rows:
    statistics = flatten(checkpoint.statistics, "/")
    return [
        (name.replace("_", " "), _text(value))
        for name, value in statistics.items()
        if value is not None
    ]


def _score_rows(evaluation: Artifact) -> Rows:
    """Metric, value and interval; the bounds of an interval have no row of their own."""
    metrics = numbers(evaluation.statistics)
    rows: Rows = []
    for name, value in metrics.items():
        if name.endswith((_LOW, _HIGH)) and name.rsplit("_", 1)[0] in metrics:
            continue
        low, high = metrics.get(name + _LOW), metrics.get(name + _HIGH)
        interval = "-" if low is None or high is None else f"{_text(low)} to {_text(high)}"
        rows.append((name, _text(value), interval))
    return rows


def _has_intervals(evaluation: Artifact) -> bool:
    return any(name.endswith(_LOW) for name in numbers(evaluation.statistics))


def _license_rows(corpora: Sequence[TrainingCorpus]) -> Rows:
    return [
        (training.corpus.name, license_name, ", ".join(packages))
        for training in corpora
        for license_name, packages in sorted(training.licenses.items())
    ]


def _origin_rows(checkpoint: Artifact, dvc_md5: str) -> Rows:
    commit = git_tags(checkpoint)
    return [
        ("Checkpoint", code(checkpoint.label)),
        ("SHA-256 of its files", code(checkpoint.digest)),
        ("Recipe hash", code(checkpoint.recipe_hash)),
        ("Raw data (DVC md5)", code(dvc_md5)),
        ("Commit", code(commit["git_commit"])),
        ("Uncommitted changes", commit["git_dirty"]),
        ("Created", str(checkpoint.provenance.get("created_at", "unknown"))),
    ]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
