"""Training of a stage: its recipe, inputs, host lock and launch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from components.core.artifact import Artifact, recipe_hash
from components.core.errors import ConfigError
from components.core.fingerprint import sha256_file
from components.core.locks import exclusive_lock, user_lock_path
from components.data.config import CORPORA
from components.training.config import StageName
from flows.runtime.context import FlowContext
from flows.runtime.prefect_artifacts import stage_progress
from flows.runtime.training_view import format_step, training_view
from flows.settings.recipes import Recipe
from flows.steps.corpora import corpus_uri

if TYPE_CHECKING:  # Imports MLflow and torch.
    from components.registry.tracking import TrackedRun
    from components.training.metrics import StepMetrics
    from components.training.run_file import StageRun

STAGES: tuple[StageName, ...] = CORPORA
"""A stage has the name of its corpus."""


def stages_up_to(recipe: Recipe, last_stage: str) -> list[StageName]:
    """Return the recipe's stages up to `last_stage`.

    Raises:
        ConfigError: there is no such stage, or it comes before the recipe's first stage.
    """
    if last_stage not in STAGES:
        raise ConfigError(
            f"there is no stage {last_stage!r}",
            expected=f"one of {', '.join(STAGES)}",
            fix="choose one of these",
        )
    stages = list(recipe.training.trained)
    if last_stage not in stages:
        raise ConfigError(
            f"the last stage is {last_stage}, which comes before the first stage, {stages[0]}",
            expected=f"one of {', '.join(stages)} as the last stage",
            fix=f"use --stage {stages[0]}, or set training.start_stage to {last_stage}",
        )
    return stages[: stages.index(last_stage) + 1]


def stage_config(recipe: Recipe, stage: StageName) -> dict[str, Any]:
    """Return the settings that decide the checkpoint of a stage, in addition to its inputs."""
    following = dict(itertools.pairwise(STAGES)).get(stage)
    return {
        "model": recipe.model,
        "stage": getattr(recipe.training.stages, stage),
        "seed": recipe.seed,
        "save_optimizer_state": following is not None
        and getattr(recipe.training.stages, following).optimizer_state == "inherit",
    }


def run_stage(
    context: FlowContext,
    stage: StageName,
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
    num_steps = getattr(recipe.training.stages, stage).steps
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
            tags={"stage": stage},
        )


def _stage_run(
    context: FlowContext,
    stage: StageName,
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
