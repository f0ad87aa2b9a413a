"""Training: NL, Multi, Mono, each from the last one's weights. Runs alone, or as a part of the pipeline.

A recipe may leave out the first of them, and may start from a model that is there already.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact, recipe_hash
from components.core.errors import ConfigError
from components.core.locks import exclusive_lock, user_lock_path
from components.data.config import CORPORA
from components.training.config import StageName
from flows.prepare import PreparedData, prepare, require_same_tokenizer
from flows.runtime.context import FlowContext, open_flow_context
from flows.runtime.prefect_artifacts import progress, show_training
from flows.runtime.training_view import describe, training_view
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import corpus_uri
from flows.steps.init_model import initial_of

if TYPE_CHECKING:  # They would import MLflow and torch.
    from components.registry.tracking import TrackedRun
    from components.training.metrics import StepMetrics

STAGES: tuple[StageName, ...] = CORPORA
"""A stage is named for the corpus that it learns from."""


@flow(name="train", flow_run_name="train {recipe.name}")
def train(
    recipe: Recipe,
    execution: Execution,
    corpora: PreparedData | None = None,
    last_stage: StageName = "mono",
    parent_run: str | None = None,
    initial: Artifact | None = None,
) -> dict[str, Artifact]:
    """The checkpoints of the recipe's stages up to `last_stage`, by stage.

    Args:
        corpora: what `prepare` made; without, they are prepared first.
        initial: what `initial_of` found; without, it is looked for.

    Raises:
        ConfigError: `last_stage` comes before the recipe's first one, or no stage can start from `training.init_from`.
    """
    stages = stages_up_to(recipe, last_stage)
    initial = initial or initial_of(recipe, execution, parent_run)
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run, initial=initial)
    checkpoints: dict[str, Artifact] = {}
    with open_flow_context(recipe, execution, "train", parent_run) as here:
        here.run.tracking.register_dvc_md5(corpora.raw.values())
        if initial:
            require_same_tokenizer(here, initial, corpora.tokenizer)
        before = initial
        for stage in stages:
            before = checkpoints[stage] = _train_stage(here, stage, corpora, before)
        show_training(here, checkpoints)
    return checkpoints


def stages_up_to(recipe: Recipe, last: str) -> list[StageName]:
    """The recipe's stages up to one.

    Raises:
        ConfigError: there is no such stage, or it comes before the recipe's first one.
    """
    if last not in STAGES:
        raise ConfigError(
            f"there is no stage {last!r}",
            expected=f"one of {', '.join(STAGES)}",
            fix="choose one of these",
        )
    trained = list(recipe.training.trained)
    if last not in trained:
        raise ConfigError(
            f"the last stage is to be {last}, and training begins with {trained[0]}",
            expected=f"one of {', '.join(trained)} as the last",
            fix=f"give --stage {trained[0]}, or set training.start_stage to {last}",
        )
    return trained[: trained.index(last) + 1]


def stage_config(recipe: Recipe, stage: StageName) -> dict[str, Any]:
    """Return the settings that decide the checkpoint of a stage, besides its inputs."""
    following = dict(itertools.pairwise(STAGES)).get(stage)
    return {
        "model": recipe.model,
        "stage": getattr(recipe.training.stages, stage),
        "seed": recipe.seed,
        "save_optimizer_state": following is not None
        and getattr(recipe.training.stages, following).optimizer == "kept",
    }


def _train_stage(
    here: FlowContext, stage: StageName, corpora: PreparedData, before: Artifact | None
) -> Artifact:
    """One stage: weights from the stage before it, everything else from its own start (docs/paper.md, section 3).

    `before`: that stage's checkpoint, or the model that training starts from.
    """
    from components.training.launch.launcher import train_stage
    from components.training.run_file import CODE_VERSION, ArtifactInput, StageRun

    recipe, corpus = here.recipe, corpora.prepared[stage]
    settings = getattr(recipe.training.stages, stage)
    config = stage_config(recipe, stage)
    parents = {"corpus": corpus, "tokenizer": corpora.tokenizer} | (
        {"initial": before} if before else {}
    )

    def given(artifact: Artifact) -> ArtifactInput:
        return ArtifactInput(
            folder=str(here.store.fetch_verified(artifact)), digest=artifact.digest
        )

    def build(folder: Path, run: TrackedRun) -> Mapping[str, JsonValue]:
        work = StageRun(
            stage=stage,
            config=settings,
            model=recipe.model,
            seed=recipe.seed,
            data=ArtifactInput(
                folder=corpus_uri(here.store, corpus, here.execution.training), digest=corpus.digest
            ),
            tokenizer=given(corpora.tokenizer),
            initial=given(before) if before else None,
            save_optimizer_state=config["save_optimizer_state"],
        )
        with (
            run.metric_stream() as record,
            training_view(stage, settings.steps, here.console) as show,
            progress(recipe.name, stage, settings.steps) as follow,
        ):

            def on_step(step: StepMetrics) -> None:
                show(step)
                follow(step, describe(step, settings.steps))
                record(step.model_dump(exclude_none=True))

            return train_stage(folder, work, here.execution.training, on_step)

    name = f"{recipe.name}-{stage}"
    there = here.store.find("checkpoint", name, recipe_hash(config, parents, CODE_VERSION))
    with (
        nullcontext() if there else _training_lock(here, f"training {name}")
    ):  # Before the step, whose time-out it is none of.
        return here.get_or_build(
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


def _training_lock(here: FlowContext, doing: str) -> AbstractContextManager[None]:
    """One training on a host at a time; ranks that others start are where those put them."""
    if not here.execution.training.one_per_host or here.execution.training.launcher != "local":
        return nullcontext()
    return exclusive_lock(user_lock_path("training").with_suffix(".lock"), doing)


@flow(name="train-stage", flow_run_name="train {recipe.name} up to {stage}")
def train_stage(
    recipe: Recipe, execution: Execution, stage: StageName = "mono"
) -> dict[str, Artifact]:
    """Train a stage and the stages before it; existing checkpoints are reused.

    Args:
        recipe: what to build.
        execution: where and how fast to run.
        stage: nl, multi or mono.
    """
    return train.fn(recipe, execution, last_stage=stage)
