"""The whole chain as one flow of sub-flows, each of which runs alone: prepare, train, evaluate, promote, and the page.

Nothing here decides what is reused (the store does) or what is good (the gate does); this is the order of things.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.files import write_atomic
from components.core.provenance import provenance
from components.core.store import Store
from flows.evaluate import Evaluations, evaluate
from flows.prepare import PreparedData, prepare
from flows.promote import promote
from flows.runtime.context import FlowContext, open_flow_context
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.init_model import initial_of
from flows.steps.preflight import preflight_check
from flows.train import train

if TYPE_CHECKING:  # They would import MLflow.
    from components.registry.promotion import Promotion
    from components.report.results import RunResults


class ReportPaths(NamedTuple):
    """Where the page of results lies."""

    html: str
    text: str
    samples: str


@flow(name="pipeline", flow_run_name="pipeline {recipe.name}")
def pipeline(recipe: Recipe, execution: Execution) -> ReportPaths:
    """From raw archives to promoted models and a page of results."""
    started, made_by = time.monotonic(), provenance()
    with open_flow_context(recipe, execution, "pipeline", None) as here:
        here.run.log_params(recipe)
        here.task("check what later steps need", lambda _: preflight_check(recipe, execution))
        initial = initial_of(recipe, execution, here.run.id)
        corpora = prepare(recipe, execution, parent_run=here.run.id, initial=initial)
        checkpoints = train(recipe, execution, corpora, parent_run=here.run.id, initial=initial)
        evaluations = evaluate(recipe, execution, corpora, checkpoints, parent_run=here.run.id)
        promotions = promote(
            recipe, execution, corpora, checkpoints, evaluations, parent_run=here.run.id
        )
        made = (corpora, checkpoints, evaluations, promotions)
        results = _results(
            recipe, *made, made_by, time.monotonic() - started, execution.resolved_tracking_uri
        )
        results = _with_samples_and_reuse(replace(results, initial=initial), here.store)
        return here.task("write the page of results", lambda _: _write_page(here, results))


def _results(
    recipe: Recipe,
    corpora: PreparedData,
    checkpoints: dict[str, Artifact],
    evaluations: Evaluations,
    promotions: list[Promotion],
    made_by: dict[str, JsonValue],
    total_s: float,
    recorded_at: str,
) -> RunResults:
    from components.report.results import RegisteredVersion, RunResults

    return RunResults(
        recipe=recipe.name,
        raw=corpora.raw,
        validation=tuple(corpora.validations.values()),
        tokenizer=corpora.tokenizer,
        prepared=corpora.prepared,
        checkpoints=checkpoints,
        evaluations=evaluations.by_stage(),
        skipped=evaluations.skipped,
        registered=tuple(
            RegisteredVersion(
                name=one.model,
                version=str(one.version),
                promoted=one.decision.promoted,
                reasons=one.decision.reasons,
                alias=one.alias,
            )
            for one in promotions
        ),
        tracking_uri=recorded_at,
        total_s=total_s,
        provenance=made_by,
    )


def _with_samples_and_reuse(results: RunResults, store: Store) -> RunResults:
    """With the samples that were judged, and what was there before this run."""
    judged = {
        parent.address
        for one in results.evaluations.values()
        for parent in one.parents
        if parent.kind == "samples"
    }
    results = replace(results, samples=tuple(store.load(address) for address in sorted(judged)))
    began = str(results.provenance["created_at"])
    reused = {one.label for one in results.steps() if str(one.provenance["created_at"]) < began}
    return replace(results, reused=frozenset(reused))


def _write_page(here: FlowContext, results: RunResults) -> ReportPaths:
    from components.report import render_html, render_samples, render_text
    from components.report.samples import SAMPLES_PAGE

    folder = here.execution.workspace_path
    page = ReportPaths(
        str(folder / "report.html"), str(folder / "report.txt"), str(folder / SAMPLES_PAGE)
    )
    for path, render in zip(page, (render_html, render_text, render_samples), strict=True):
        write_atomic(Path(path), render(results, here.store))
        here.run.log_file(Path(path))
    return page
