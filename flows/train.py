"""Training: NL, Multi, Mono, each from the last one's weights. Runs alone, or as a part of the pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.data.config import CORPORA
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.live import training_view
from flows.prepare import Corpora, prepare
from flows.recipes import Recipe

if TYPE_CHECKING:  # They would import MLflow and torch.
    from components.registry.runs import TrackedRun
    from components.training.metrics import StepMetrics

Stage = Literal["nl", "multi", "mono"]

STAGES: tuple[Stage, ...] = CORPORA
"""A stage is named for the corpus that it learns from."""


@flow(name="train", flow_run_name="train {recipe.name}")
def train(
    recipe: Recipe,
    execution: Execution,
    corpora: Corpora | None = None,
    last_stage: Stage = "mono",
    parent_run: str | None = None,
) -> dict[str, Artifact]:
    """The checkpoints of all stages up to `last_stage`, by stage. Without `corpora` they are prepared first."""
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run)
    checkpoints: dict[str, Artifact] = {}
    with desk(recipe, execution, "train", parent_run) as here:
        before: Artifact | None = None
        for stage in STAGES[: STAGES.index(last_stage) + 1]:
            before = checkpoints[stage] = _stage(here, stage, corpora, before)
    return checkpoints


def _stage(here: Desk, stage: Stage, corpora: Corpora, before: Artifact | None) -> Artifact:
    """One stage: weights from the stage before it, everything else from its own start (docs/paper.md, section 3)."""
    from components.training.launch import train_stage
    from components.training.run import CODE_VERSION, Input, StageRun

    recipe, corpus = here.recipe, corpora.prepared[stage]
    settings = getattr(recipe.training.stages, stage)
    following = dict(itertools.pairwise(STAGES)).get(stage)
    leaves_optimizer = following is not None and getattr(recipe.training.stages, following).optimizer == "kept"
    config: dict[str, JsonValue] = {
        "model": recipe.model.model_dump(mode="json"),
        "stage": settings.model_dump(mode="json"),
        "seed": recipe.seed,
        "leaves_optimizer": leaves_optimizer,
    }
    parents = {"corpus": corpus, "tokenizer": corpora.tokenizer} | ({"initial": before} if before else {})

    def given(artifact: Artifact) -> Input:
        return Input(folder=str(here.store.open(artifact)), digest=artifact.digest)

    def build(folder: Path, run: TrackedRun) -> Mapping[str, JsonValue]:
        work = StageRun(
            stage=stage,
            config=settings,
            model=recipe.model,
            seed=recipe.seed,
            data=given(corpus),
            tokenizer=given(corpora.tokenizer),
            initial=given(before) if before else None,
            leaves_optimizer=leaves_optimizer,
        )
        with run.stream() as record, training_view(stage, settings.steps, here.console) as show:

            def on_step(step: StepMetrics) -> None:
                show(step)
                record(step.model_dump(exclude_none=True))

            return train_stage(folder, work, here.execution.training, on_step)

    return here.make(
        f"train {stage}",
        "checkpoint",
        f"{recipe.name}-{stage}",
        config=config,
        parents=parents,
        code_version=CODE_VERSION,
        build=build,
        resumable=True,
        tags={"stage": stage},
    )
