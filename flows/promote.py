"""Registration and promotion: every checkpoint becomes a version, and the gate decides about each. Runs alone, too."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prefect import flow

from components.core.artifact import Artifact
from components.core.provenance import provenance
from flows.evaluate import Evaluations, evaluate
from flows.prepare import PreparedData, prepare
from flows.runtime.context import FlowContext, open_flow_context
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.approval import decide_promotion
from flows.steps.collect_evidence import collect_evidence
from flows.steps.corpora import training_corpora_of
from flows.steps.init_model import initial_of
from flows.steps.preflight import preflight_check
from flows.train import train

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.promotion import Promotion
    from components.registry.tracking import TrackedRun


@flow(name="promote", flow_run_name="promote {recipe.name}")
def promote(
    recipe: Recipe,
    execution: Execution,
    corpora: PreparedData | None = None,
    checkpoints: dict[str, Artifact] | None = None,
    evaluations: Evaluations | None = None,
    parent_run: str | None = None,
) -> list[Promotion]:
    """Register and judge every checkpoint. What is not given is prepared, trained and evaluated first."""
    if parent_run is None:  # The pipeline has checked already.
        preflight_check(recipe, execution)
    initial = None if checkpoints else initial_of(recipe, execution, parent_run)
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run, initial=initial)
    checkpoints = checkpoints or train(
        recipe, execution, corpora, parent_run=parent_run, initial=initial
    )
    evaluations = evaluations or evaluate(
        recipe, execution, corpora, checkpoints, parent_run=parent_run
    )
    with open_flow_context(recipe, execution, "promote", parent_run) as here:
        return [
            _judge(here, stage, one, corpora, evaluations) for stage, one in checkpoints.items()
        ]


def _parity(folder: Path) -> float:
    from components.model.huggingface import (
        logit_parity,
    )  # PyTorch and transformers, for what is registered for the first time.

    return logit_parity(folder)


def _parity_by() -> str:
    """The commit and the packages that measure parity; empty where the code is no commit's."""
    made_by = provenance()
    if made_by["git_dirty"] is not False:
        return ""
    return f"commit {made_by['git_commit']}, torch {version('torch')}, transformers {version('transformers')}"


def _judge(
    here: FlowContext,
    stage: str,
    checkpoint: Artifact,
    corpora: PreparedData,
    evaluations: Evaluations,
) -> Promotion:
    from components.registry.versions import register

    measured = evaluations.of(stage)

    def step(run: TrackedRun) -> Artifact:
        return register(
            checkpoint,
            here.store.fetch_verified(checkpoint),
            name=checkpoint.name,
            stage=stage,
            run=run,
            evaluations=measured,
            dvc_md5=str(corpora.raw[stage].provenance.get("dvc_md5", "none: not kept by DVC")),
            parity=_parity,
            parity_environment=_parity_by(),
            max_logit_difference=here.recipe.promotion.max_logit_difference,
            corpora=training_corpora_of(
                here.recipe, here.execution, stage, corpora.raw, corpora.prepared
            ),
            not_measured=evaluations.skipped,
        )

    registered = here.task(f"register {stage}", step, tags={"stage": stage})
    facts = registered.statistics
    evidence = collect_evidence(
        here.store, checkpoint, measured, cast(float, facts["logit_difference"])
    )
    promotion = decide_promotion(
        here, checkpoint.name, cast(int, facts["version"]), stage, evidence
    )
    here.print_step(f"promote {stage}", promotion.decision.outcome)
    here.console.print(f"  {promotion.summary}", soft_wrap=True, markup=False)
    return promotion
