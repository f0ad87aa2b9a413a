"""Training of a stage: its recipe, inputs, host lock and launch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from components.core.artifact import Artifact, recipe_hash
from components.core.errors import ConfigError
from components.core.fingerprint import sha256_file
from components.core.locks import exclusive_lock, user_lock_path
from flows.runtime.context import FlowContext
from flows.runtime.prefect_artifacts import stage_progress
from flows.runtime.training_view import format_step, training_view
from flows.settings.recipes import Recipe
from flows.steps.corpora import corpus_uri

if TYPE_CHECKING:  # Imports MLflow and torch.
    from components.registry.tracking import TrackedRun
    from components.training.metrics import StepMetrics
    from components.training.run_file import StageRun


TRAINING_TAG = "training"
"""Tag of the MLflow run of a training: the label that its checkpoint gets."""


def stages_to_train(recipe: Recipe, last_stage: str | None) -> list[str]:
    """Return the stages that lead to `last_stage`, or all trained stages of the recipe if None.

    Raises:
        ConfigError: there is no such stage, or the recipe's first stage does not lead to it.
    """
    training = recipe.training
    if last_stage is None:
        return list(training.trained)
    if last_stage not in training.stages:
        raise ConfigError(
            f"there is no stage {last_stage!r}",
            expected=f"one of {', '.join(training.all_stages)}",
            fix="choose one of these",
        )
    if last_stage not in training.trained:
        raise ConfigError(
            f"the last stage is {last_stage}, to which the first stage, {training.first_stage}, "
            "does not lead",
            expected=f"one of {', '.join(training.trained)} as the last stage",
            fix=f"use --stage {training.first_stage}, or set training.start_stage to {last_stage}",
        )
    return list(training.stages_up_to(last_stage))


def stage_config(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Return the settings that decide the checkpoint of a stage, in addition to its inputs."""
    stages = recipe.training.stages
    return {
        "model": recipe.model,
        # The corpus and the initial weights are inputs, whatever their names.
        "stage": stages[stage].reset("corpus", "init_stage"),
        "seed": recipe.seed,
        "save_optimizer_state": any(
            other.init_stage == stage and other.optimizer_state == "inherit"
            for other in stages.values()
        ),
    }


def run_stage(
    context: FlowContext,
    stage: str,
    corpus: Artifact,
    tokenizer: Artifact,
    previous: Artifact | None,
) -> Artifact:
    """Return the checkpoint of a stage (docs/paper.md, section 3).

    Args:
        previous: the checkpoint that provides the initial weights; None starts with new weights.
    """
    from components.training.launch.launcher import train_stage
    from components.training.run_file import CODE_VERSION, DEEPSPEED_FILE

    recipe = context.recipe
    num_steps = recipe.training.stages[stage].steps
    config = stage_config(recipe, stage)
    parents = {"corpus": corpus, "tokenizer": tokenizer}
    if previous:
        parents["initial"] = previous
    name = f"{recipe.name}-{stage}"
    hash_value = recipe_hash(config, parents, CODE_VERSION)
    monitor_folder = context.execution.workspace_path / "monitors" / f"{name}-{hash_value[:12]}"

    def build(folder: Path, run: TrackedRun) -> Mapping[str, JsonValue]:
        stage_run = _stage_run(context, stage, corpus, tokenizer, previous)
        with (
            run.metric_stream() as log_metrics,
            training_view(stage, num_steps, context.console) as show,
            stage_progress(recipe.name, stage, num_steps) as update_progress,
        ):

            def on_step(step: StepMetrics) -> None:
                show(step)
                update_progress(step.step, format_step(step, num_steps))
                log_metrics(step.model_dump(exclude_none=True))

            statistics = train_stage(
                folder, stage_run, context.execution.training, on_step, monitor_folder
            )
        # The manifest of the checkpoint has the same digest.
        run.log_file(folder / DEEPSPEED_FILE)
        run.set_tags({"deepspeed_config": sha256_file(folder / DEEPSPEED_FILE)})
        return statistics

    published = context.store.find("checkpoint", name, hash_value)
    # The lock is acquired outside the task, so that waiting does not count towards its timeout.
    with nullcontext() if published else _training_lock(context, name):
        return context.get_or_build(
            f"train {stage}",
            "checkpoint",
            name,
            config=config,
            parents=parents,
            code_version=CODE_VERSION,
            build=build,
            resumable=True,
            tags={"stage": stage, TRAINING_TAG: f"checkpoint/{name}-{hash_value[:12]}"},
        )


def _stage_run(
    context: FlowContext,
    stage: str,
    corpus: Artifact,
    tokenizer: Artifact,
    previous: Artifact | None,
) -> StageRun:
    """Return the inputs of the training processes; fetches the artifacts."""
    from components.training.run_file import ArtifactInput, StageRun

    def stage_input(artifact: Artifact) -> ArtifactInput:
        folder = str(context.store.fetch_verified(artifact))
        return ArtifactInput(folder=folder, digest=artifact.digest)

    corpus_folder = corpus_uri(context.store, corpus, context.execution.training)
    config = stage_config(context.recipe, stage)
    return StageRun(
        stage=stage,
        config=config["stage"],
        model=config["model"],
        seed=config["seed"],
        data=ArtifactInput(folder=corpus_folder, digest=corpus.digest),
        tokenizer=stage_input(tokenizer),
        init_from=stage_input(previous) if previous else None,
        save_optimizer_state=config["save_optimizer_state"],
    )


def _training_lock(context: FlowContext, name: str) -> AbstractContextManager[None]:
    """Return a lock for one training per host; no lock if another launcher chooses the hosts."""
    training = context.execution.training
    if not training.one_per_host or training.launcher != "local":
        return nullcontext()
    return exclusive_lock(user_lock_path("training"), f"training {name}")
