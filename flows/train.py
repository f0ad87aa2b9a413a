"""Training flows: the stages of a recipe, each from the weights of the stage that it names.

A recipe can omit the first stages, and can start from an existing model.
"""

from __future__ import annotations

from prefect import flow

from components.core.artifact import Artifact
from flows.prepare import PreparedData, prepare
from flows.runtime.context import FlowContext, open_flow_context
from flows.runtime.health_checks import check_training, preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.epochs import (
    format_epochs,
    require_few_epochs,
    stage_epochs,
    tokens_of_prepared,
)
from flows.steps.prepare_corpora import check_same_tokenizer
from flows.steps.report import publish_training
from flows.steps.resolve_model import check_init_checkpoint, resolve_model
from flows.steps.stage_gate import StageGates, release_gpu_memory
from flows.steps.stage_training import run_stage, stages_to_train


@flow(name="train", flow_run_name="train {recipe.name}")
def train(
    recipe: Recipe,
    execution: Execution,
    corpora: PreparedData | None = None,
    last_stage: str | None = None,
    parent_run: str | None = None,
    init_checkpoint: Artifact | None = None,
) -> dict[str, Artifact]:
    """Return the checkpoints of the recipe's stages, by stage.

    Args:
        recipe: the stages to train.
        execution: where and how fast.
        corpora: result of `prepare`; None runs it first.
        last_stage: train only the stages that lead to this stage. None: all stages.
        parent_run: id of the parent MLflow run.
        init_checkpoint: result of `resolve_init_checkpoint`; None runs it first if needed.

    Raises:
        ConfigError: a corpus has no sources, settings of a stage cannot be used on these
            processes, the first stage does not lead to `last_stage` or cannot start from the model
            that the recipe names, or a stage reads its corpus too often.
        StageGateError: a stage did not pass its gate; the stages that start from it are not
            trained, all others are.
    """
    stages = stages_to_train(recipe, last_stage)
    recipe.require_corpora(map(recipe.training.corpus_of, stages))
    check_training(recipe, execution, stages)
    init_checkpoint = init_checkpoint or find_init_checkpoint(recipe, execution, parent_run)
    corpora = corpora or prepare(
        recipe,
        execution,
        parent_run=parent_run,
        init_checkpoint=init_checkpoint,
        stages=stages,
    )
    epochs = stage_epochs(recipe, stages, tokens_of_prepared(recipe, corpora.prepared))
    require_few_epochs(recipe, epochs)
    checkpoints: dict[str, Artifact] = {}
    with open_flow_context(recipe, execution, "train", parent_run) as context:
        context.run.tracking.register_dvc_md5(corpora.raw.values())
        context.console.print(f"  {format_epochs(epochs)}", soft_wrap=True, markup=False)
        context.run.log_metrics({"epochs": {row.stage: row.epochs for row in epochs}})
        if init_checkpoint:
            check_same_tokenizer(context, init_checkpoint, corpora.tokenizer)
        gates = StageGates(context, stages)
        if gates.stages and parent_run is None:  # The pipeline has checked this already.
            preflight_check(recipe, execution)
        waiting = list(stages)
        while waiting:
            stage = gates.next_stage(waiting)
            waiting.remove(stage)
            if not gates.may_train(stage):
                continue
            init_stage = recipe.training.stages[stage].init_stage
            is_first = init_stage not in stages
            checkpoints[stage] = run_stage(
                context,
                stage,
                corpora.prepared[recipe.training.corpus_of(stage)],
                corpora.tokenizer,
                init_checkpoint if is_first else checkpoints[str(init_stage)],
                checkpoints,
                later_stages=waiting,
            )
            if stage in gates.stages:
                evaluations = _evaluate_stage(context, corpora, stage, checkpoints[stage])
                gates.evaluate(stage, checkpoints[stage], evaluations)
        publish_training(context, checkpoints)
        gates.require_open()
    return checkpoints


def _evaluate_stage(
    context: FlowContext, corpora: PreparedData, stage: str, checkpoint: Artifact
) -> dict[str, Artifact]:
    """Return the evaluations of a checkpoint by benchmark; the flow `evaluate` reuses them."""
    from flows.evaluate import evaluate  # It imports this module.

    evaluations = evaluate(
        context.recipe, context.execution, corpora, {stage: checkpoint}, parent_run=context.run.id
    )
    release_gpu_memory()
    return evaluations.of_stage(stage)


@flow(name="resolve-init-checkpoint", flow_run_name="resolve {recipe.training.init_from}")
def resolve_init_checkpoint(
    recipe: Recipe, execution: Execution, parent_run: str | None = None
) -> Artifact:
    """Return the checkpoint that `training.init_from` names; it must not be None.

    A run resolves the model once and passes the artifact on, so a registry alias that moves
    meanwhile has no effect.

    Raises:
        ConfigError: the model does not exist, or the first stage cannot start from it.
        ArtifactError: the model is damaged or incomplete.
        TrackingError: the registry has no such model.
    """
    title = "resolve init checkpoint"
    with open_flow_context(recipe, execution, title, parent_run) as context:
        checkpoint = resolve_model(context, recipe.training.init_from or "")
        check_init_checkpoint(context, checkpoint)
    return checkpoint


def find_init_checkpoint(
    recipe: Recipe, execution: Execution, parent_run: str | None
) -> Artifact | None:
    """Return the checkpoint to start from; None if training starts with new weights."""
    if recipe.training.init_from is None:
        return None
    return resolve_init_checkpoint(recipe, execution, parent_run)


def prepare_and_train(
    recipe: Recipe,
    execution: Execution,
    corpora: PreparedData | None,
    checkpoints: dict[str, Artifact] | None,
    parent_run: str | None,
) -> tuple[PreparedData, dict[str, Artifact]]:
    """Return corpora and checkpoints; run the flows of those that are None."""
    recipe.require_corpora()
    init_checkpoint = None
    if checkpoints is None:
        init_checkpoint = find_init_checkpoint(recipe, execution, parent_run)
    corpora = corpora or prepare(
        recipe,
        execution,
        parent_run=parent_run,
        init_checkpoint=init_checkpoint,
        stages=list(recipe.training.trained) if checkpoints is None else None,
    )
    checkpoints = checkpoints or train(
        recipe, execution, corpora, parent_run=parent_run, init_checkpoint=init_checkpoint
    )
    return corpora, checkpoints


@flow(name="train-stage", flow_run_name="train {recipe.name} up to {stage}")
def train_stage(recipe: Recipe, execution: Execution, stage: str) -> dict[str, Artifact]:
    """Train a stage and the stages that lead to it; existing checkpoints are reused.

    Args:
        recipe: what to build.
        execution: where and how fast to run.
        stage: name of the stage.
    """
    return train.fn(recipe, execution, last_stage=stage)
