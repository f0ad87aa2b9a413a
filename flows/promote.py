"""Registration and promotion: every checkpoint becomes a version, and the gate decides about each. Runs alone, too."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prefect import flow

from components.core.artifact import Artifact
from components.core.provenance import provenance
from flows.approval import decide
from flows.corpora import learnt_by
from flows.desk import Desk, desk
from flows.evaluate import Evaluations, evaluate
from flows.evidence import gather
from flows.execution import Execution
from flows.initial import initial_of
from flows.inputs import check_inputs
from flows.prepare import Corpora, prepare
from flows.recipes import Recipe
from flows.train import train

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.promotion import Promotion
    from components.registry.runs import TrackedRun


@flow(name="promote", flow_run_name="promote {recipe.name}")
def promote(
    recipe: Recipe,
    execution: Execution,
    corpora: Corpora | None = None,
    checkpoints: dict[str, Artifact] | None = None,
    evaluations: Evaluations | None = None,
    parent_run: str | None = None,
) -> list[Promotion]:
    """Register and judge every checkpoint. What is not given is prepared, trained and evaluated first."""
    if parent_run is None:  # The pipeline has checked already.
        check_inputs(recipe, execution)
    initial = None if checkpoints else initial_of(recipe, execution, parent_run)
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run, initial=initial)
    checkpoints = checkpoints or train(recipe, execution, corpora, parent_run=parent_run, initial=initial)
    evaluations = evaluations or evaluate(recipe, execution, corpora, checkpoints, parent_run=parent_run)
    with desk(recipe, execution, "promote", parent_run) as here:
        return [_judge(here, stage, one, corpora, evaluations) for stage, one in checkpoints.items()]


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


def _judge(here: Desk, stage: str, checkpoint: Artifact, corpora: Corpora, evaluations: Evaluations) -> Promotion:
    from components.registry.models import register

    measured = evaluations.of(stage)

    def step(run: TrackedRun) -> Artifact:
        return register(
            checkpoint,
            here.store.open(checkpoint),
            name=checkpoint.name,
            stage=stage,
            run=run,
            evaluations=measured,
            dvc_md5=str(corpora.raw[stage].provenance.get("dvc_md5", "none: not kept by DVC")),
            parity=_parity,
            parity_by=_parity_by(),
            max_logit_difference=here.recipe.promotion.max_logit_difference,
            learnt=learnt_by(here.recipe, here.execution, stage, corpora.raw, corpora.prepared),
            not_measured=evaluations.skipped,
        )

    registered = here.task(f"register {stage}", step, tags={"stage": stage})
    facts = registered.statistics
    evidence = gather(here.store, checkpoint, measured, cast(float, facts["logit_difference"]))
    promotion = decide(here, checkpoint.name, cast(int, facts["version"]), stage, evidence)
    here.say(f"promote {stage}", promotion.decision.outcome)
    here.console.print(f"  {promotion.summary}", soft_wrap=True, markup=False)
    return promotion
