"""Registration and promotion: every checkpoint becomes a version, and the gate decides about each. Runs alone, too."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, cast

from prefect import flow

from components.core.artifact import Artifact
from components.core.fingerprint import fingerprint
from flows.desk import Desk, desk
from flows.evaluate import Evaluations, evaluate
from flows.execution import Execution
from flows.initial import initial_of
from flows.inputs import check_inputs
from flows.prepare import Corpora, prepare
from flows.recipes import Recipe
from flows.train import train

if TYPE_CHECKING:  # It would import MLflow.
    from components.registry.gate import Evidence
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


def _judge(here: Desk, stage: str, checkpoint: Artifact, corpora: Corpora, evaluations: Evaluations) -> Promotion:
    from components.model.huggingface import logit_parity
    from components.registry.models import register
    from components.registry.promotion import promote as decide

    measured = evaluations.of(stage)

    def step(run: TrackedRun) -> Promotion:
        registered = register(
            checkpoint,
            here.store.open(checkpoint),
            name=checkpoint.name,
            stage=stage,
            run=run,
            evaluations=measured,
            dvc_md5=str(corpora.raw[stage].provenance.get("dvc_md5", "none: not kept by DVC")),
            parity=logit_parity,
            max_logit_difference=here.recipe.promotion.max_logit_difference,
        )
        return decide(
            registered,
            gate=here.recipe.promotion,
            stage=stage,
            evidence=_evidence(checkpoint, registered, measured),
            run=run,
            decided_by=f"{user()} (flow promote)",
        )

    promotion = here.task(f"promote {stage}", step, tags={"stage": stage})
    here.say(f"promote {stage}", promotion.decision.outcome)
    here.console.print(f"  {promotion.summary}", soft_wrap=True, markup=False)
    return promotion


def _evidence(checkpoint: Artifact, registered: Artifact, measured: dict[str, Artifact]) -> Evidence:
    from components.registry.gate import Evidence, metrics_of

    return Evidence(
        digest=checkpoint.digest,
        metrics=metrics_of(measured),
        protocols={name: protocol(one) for name, one in measured.items()},
        logit_difference=cast(float, registered.statistics["logit_difference"]),
        sandboxed=_sandboxed(measured),
        git_dirty=_dirty(checkpoint),
    )


def user() -> str:
    """Who runs this process, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        return f"uid {os.getuid()}"


def protocol(evaluation: Artifact) -> str:
    """The fingerprint of how a benchmark was run: its recipe and its inputs, all but the model that it measured."""
    others = {one.role: one.digest for one in evaluation.parents if one.kind not in ("checkpoint", "samples")}
    return fingerprint({"settings": evaluation.statistics.get("protocol"), "inputs": others})


def _sandboxed(measured: dict[str, Artifact]) -> bool | None:
    """Whether every program that ran was isolated; none where no program ran."""
    isolated = [one.statistics.get("isolated") is True for one in measured.values() if one.statistics.get("executed")]
    return all(isolated) if isolated else None


def _dirty(checkpoint: Artifact) -> bool | None:
    """Whether any attempt at the checkpoint ran from uncommitted code; none where one of them cannot tell."""
    attempts = checkpoint.provenance.get("attempts")
    states = [one.get("git_dirty") for one in attempts if isinstance(one, dict)] if isinstance(attempts, list) else []
    if True in states:
        return True
    return None if None in states or not states else False
