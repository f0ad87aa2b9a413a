"""Results of a run: sections as Prefect artifacts, and the results report as HTML and text.

Prefect artifacts and the report use the same sections of `components.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.core.artifact import Artifact
from components.core.files import write_atomic
from components.core.provenance import provenance
from components.core.store import Store
from flows.runtime.context import FlowContext
from flows.runtime.prefect_artifacts import mlflow_run_url, publish_markdown

if TYPE_CHECKING:  # Imports more than the definition of a flow needs.
    from components.registry.promotion import Promotion
    from components.registry.stage_gate import StageDecision
    from components.report.corpus import Rule
    from components.report.page import Section
    from components.report.results import RegisteredVersion, RunResults, StageGateResult


_MAX_TEXT_WIDTH = 120
"""Columns of the text report. Longer lines are hard to read (assumption)."""


class ReportPaths(NamedTuple):
    """Paths of the results report."""

    html: str
    text: str
    samples: str


def publish_validation_results(
    context: FlowContext, subject: str, rules: Sequence[Rule], run_id: str | None
) -> None:
    """Publish the results of all validation rules, failed rules first.

    Args:
        subject: the validated corpora, e.g. "raw corpora".
        rules: the content of `results.json` of a validation.
        run_id: the MLflow run of the validation, which has the same table; None if it was deleted.
    """
    from components.report.corpus import rules_section

    links = ""
    if run_id:
        url = mlflow_run_url(run_id, context.run.experiment_id, context.execution)
        links = f"[Same table in MLflow]({url}). "
    # A path and not a link: browsers open no local file from the page of a server.
    data_docs = context.execution.workspace_path / "gx" / "index.html"
    links += f"Great Expectations Data Docs, with more examples and earlier versions: `{data_docs}`"
    section = rules_section(subject, rules)
    _publish_sections(
        context, f"rules-{subject}", [section], f"Validation of the {subject}", f"\n{links}\n"
    )


def publish_corpora(
    context: FlowContext,
    raw: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
    validations: Sequence[Artifact],
) -> None:
    """Publish the corpora, from raw documents to tokens."""
    from components.report.corpus import corpus_section

    results = _partial_results(context, raw=raw, prepared=prepared, validation=tuple(validations))
    section = corpus_section(results, context.store)
    _publish_sections(context, "corpora", [section], "Documents read, rejected and kept")


def publish_training(context: FlowContext, checkpoints: Mapping[str, Artifact]) -> None:
    """Publish the losses of the trained stages."""
    from components.report.training import training_section

    results = _partial_results(context, checkpoints=checkpoints)
    section = training_section(results, context.store)
    _publish_sections(context, "training", [section], "Loss over tokens by stage")


def publish_scores(
    context: FlowContext,
    checkpoints: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
    evaluations: Mapping[tuple[str, str], Artifact],
    skipped: Mapping[str, str],
) -> None:
    """Publish bits per byte by stage and corpus, and benchmarks with the paper's results."""
    from components.report.bits_per_byte_section import bits_section
    from components.report.results_page import program_sections

    results = _partial_results(
        context,
        checkpoints=checkpoints,
        prepared=prepared,
        evaluations=evaluations,
        skipped=skipped,
    )
    store = context.store
    sections = [bits_section(results, store), *program_sections(results, store)]
    _publish_sections(context, "scores", sections, "Bits per byte and benchmarks")


def _partial_results(context: FlowContext, **fields: Any) -> RunResults:
    """Return the results of a part of a run; the remaining fields are empty."""
    from components.report.results import RunResults

    empty: dict[str, Any] = {"raw": {}, "prepared": {}, "checkpoints": {}, "evaluations": {}}
    return RunResults(
        recipe=context.recipe.name, total_s=0.0, provenance=provenance(), **(empty | fields)
    )


def _publish_sections(
    context: FlowContext, name: str, sections: Sequence[Section], description: str, footer: str = ""
) -> None:
    from components.report.rendering import sections_markdown

    publish_markdown(context.recipe.name, name, sections_markdown(sections) + footer, description)


def registered_versions(promotions: Sequence[Promotion]) -> tuple[RegisteredVersion, ...]:
    """Return the registered versions and their promotion, for the report."""
    from components.report.results import RegisteredVersion

    return tuple(
        RegisteredVersion(
            name=promotion.model,
            version=str(promotion.version),
            promoted=promotion.decision.promoted,
            reasons=promotion.decision.reasons,
            alias=promotion.alias,
        )
        for promotion in promotions
    )


def stage_gate_results(decisions: Sequence[StageDecision]) -> tuple[StageGateResult, ...]:
    """Return decisions at stage gates for the report."""
    from components.report.results import StageGateResult

    return tuple(
        StageGateResult(
            stage=decision.stage,
            outcome=decision.outcome,
            requirements=tuple(f"{check.rule}: {check.detail}" for check in decision.checks),
            decided_by=decision.decided_by,
            decided_at=decision.decided_at,
            reason=decision.reason,
        )
        for decision in decisions
    )


def write_report(context: FlowContext, results: RunResults) -> ReportPaths:
    """Write the results report to the workspace and log it to MLflow."""
    from components.report import render_html, render_samples, render_text
    from components.report.samples_page import SAMPLES_PAGE

    results = _with_samples_and_reuse(results, context.store)
    folder = context.execution.workspace_path
    width = min(context.console.width, _MAX_TEXT_WIDTH)  # 80 without a terminal.
    renderers: dict[Path, Callable[[RunResults, Store], str]] = {
        folder / "report.html": render_html,
        folder / "report.txt": partial(render_text, width=width),
        folder / SAMPLES_PAGE: render_samples,
    }
    for path, render in renderers.items():
        write_atomic(path, render(results, context.store))
        context.run.log_file(path)
    return ReportPaths(*(str(path) for path in renderers))


def _with_samples_and_reuse(results: RunResults, store: Store) -> RunResults:
    """Add the samples of the evaluations, and the labels of artifacts older than the run."""
    addresses: set[str] = set()
    for evaluation in results.evaluations.values():
        for parent in evaluation.parents:
            if parent.kind == "samples":
                addresses.add(parent.address)
    results = replace(results, samples=tuple(store.load(address) for address in sorted(addresses)))
    started_at = str(results.provenance["created_at"])
    reused = [
        artifact.label
        for artifact in results.steps()
        if str(artifact.provenance["created_at"]) < started_at
    ]
    return replace(results, reused=frozenset(reused))
