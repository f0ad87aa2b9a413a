"""Evaluation of the checkpoints inside a stage while it is trained.

Each checkpoint is linked into a snapshot, so that the trainer may prune it, exported as an artifact
with a digest, and evaluated like a finished stage. Artifacts are reused, so each checkpoint is
evaluated once, and an interrupted follower continues. The metrics of all checkpoints are logged to
the MLflow run of the follower, over steps and over tokens of the stage.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import JsonValue

from components.core.artifact import Artifact, recipe_hash
from components.core.config import Config
from components.core.errors import ConfigError
from components.core.locks import exclusive_lock
from components.core.store import FOLLOWER_LOCK_SUFFIX, SNAPSHOT_SUFFIX, Store
from flows.runtime.context import FlowContext
from flows.settings.recipes import Recipe
from flows.steps.stage_training import TRAINING_TAG, stage_config

if TYPE_CHECKING:  # Imports MLflow and torch.
    from components.registry.tracking import TrackedRun
    from components.training.checkpoint.retention import VerifiedCheckpoint

logger = logging.getLogger(__name__)

_POLL_INTERVAL_S = 5.0
"""Time between two searches for new checkpoints (assumption: checkpoints are minutes apart)."""

Evaluate = Callable[[str, Artifact], Mapping[str, Artifact]]
"""Takes the title of a checkpoint, such as `nl step 400`; returns evaluations by benchmark."""


class EvaluatedCheckpoint(Config):
    """A checkpoint of a stage with its metrics."""

    step: int
    tokens: int
    """Tokens of the stage up to this step."""
    checkpoint: str
    """Label of the exported checkpoint."""
    digest: str
    metrics: dict[str, float]


class FollowedTraining(NamedTuple):
    """The training of a stage, whether it runs, was interrupted or is finished."""

    recipe: Recipe
    stage: str
    store: Store
    parents: Mapping[str, Artifact]
    """Corpus, tokenizer and initial checkpoint, by role."""

    @property
    def name(self) -> str:
        """Name of the checkpoint of the stage."""
        return f"{self.recipe.name}-{self.stage}"

    @property
    def recipe_hash(self) -> str:
        """Recipe hash of the checkpoint of the stage."""
        return self._hash(self.config())

    @property
    def label(self) -> str:
        """Label of the checkpoint of the stage."""
        return f"checkpoint/{self.name}-{self.recipe_hash[:12]}"

    @property
    def folder(self) -> Path:
        """The folder in which the stage is trained."""
        return self.store.building_folder("checkpoint", self.name, self.recipe_hash)

    def config(self, step: int | None = None) -> dict[str, Any]:
        """Return the recipe of the finished stage, or of the checkpoint after a step."""
        config = stage_config(self.recipe, self.stage)
        return config if step is None else {**config, "step": step}

    def step_name(self, step: int) -> str:
        """Return the name of the exported checkpoint after a step."""
        return f"{self.name}-step-{step:08d}"

    def finished(self) -> Artifact | None:
        """Return the checkpoint of the finished stage."""
        return self.store.find("checkpoint", self.name, self.recipe_hash)

    def exported_steps(self) -> dict[int, Artifact]:
        """Return the checkpoints inside the stage that were exported before, by step."""
        exported = {}
        for artifact in self.store.list_artifacts(f"checkpoint/{self.name}-step-*"):
            step = artifact.statistics.get("steps")
            if isinstance(step, int) and artifact.recipe_hash == self._hash(self.config(step)):
                exported[step] = artifact
        return exported

    def saved_steps(self) -> dict[int, Path]:
        """Return the folders of the checkpoints inside the stage by step, oldest first."""
        from components.training.checkpoint.retention import newest_first, step_of
        from components.training.run_file import WORK_FOLDER

        return {step_of(path): path for path in reversed(newest_first(self.folder / WORK_FOLDER))}

    def is_running(self) -> bool:
        """Whether a process of this host trains the stage."""
        return self.store.is_building("checkpoint", self.name, self.recipe_hash)

    def _hash(self, config: Mapping[str, Any]) -> str:
        from components.training.run_file import CODE_VERSION

        return recipe_hash(config, self.parents, CODE_VERSION)


def find_training(
    context: FlowContext,
    stage: str,
    prepared: Mapping[str, Artifact],
    tokenizer: Artifact,
    init_checkpoint: Artifact | None,
    *,
    wait: bool = False,
) -> FollowedTraining:
    """Return the training of a stage of the recipe.

    Args:
        wait: wait until the stage that it starts from is trained.

    Raises:
        ConfigError: that stage is not trained, and `wait` is false.
    """
    training = context.recipe.training
    initial = init_checkpoint
    for name in training.stages_up_to(stage):
        parents = {"corpus": prepared[training.corpus_of(name)], "tokenizer": tokenizer}
        if initial:
            parents["initial"] = initial
        followed = FollowedTraining(context.recipe, name, context.store, parents)
        if name == stage:
            break
        while (initial := followed.finished()) is None:
            if not wait:
                raise ConfigError(
                    f"stage {stage} of {context.recipe.name} is not in training: stage {name}, "
                    "which leads to it, is not finished",
                    expected="a stage whose training has started",
                    fix=f"follow stage {name} first with --stage {name}, or wait with --wait",
                )
            time.sleep(_POLL_INTERVAL_S)
    return followed


def scores_during_training(
    context: FlowContext,
    prepared: Mapping[str, Artifact],
    tokenizer: Artifact,
    init_checkpoint: Artifact | None,
    evaluations: Mapping[str, Artifact],
) -> dict[str, dict[int, Artifact]]:
    """Return bits per byte of the checkpoints inside each stage, by stage and tokens of the stage.

    Args:
        evaluations: bits per byte of the finished stages; only equal protocols are comparable. A
            warning names the checkpoints that were evaluated with another protocol only.
    """
    by_stage: dict[str, dict[int, Artifact]] = {}
    for stage, finished in evaluations.items():
        training = find_training(context, stage, prepared, tokenizer, init_checkpoint)
        steps = {artifact.digest: step for step, artifact in training.exported_steps().items()}
        by_stage[stage] = {}
        scored, other = set(), set()
        protocol = finished.statistics.get("protocol")
        expected = {parent.role: parent.digest for parent in finished.parents}
        for evaluation in context.store.list_artifacts(f"evaluation/{training.name}-step-*"):
            inputs = {parent.role: parent.digest for parent in evaluation.parents}
            checkpoint = inputs.get("checkpoint", "")
            if checkpoint not in steps or inputs != {**expected, "checkpoint": checkpoint}:
                continue
            step = steps[checkpoint]
            if evaluation.statistics.get("protocol") == protocol:
                by_stage[stage][_num_tokens(training, step)] = evaluation
                scored.add(step)
            else:
                other.add(step)
        if left_out := sorted(other - scored):
            logger.warning(
                "stage %s: the scores after steps %s are left out, because their protocol (for "
                "example the precision) differs from that of the finished stage; to include them, "
                "run `codegen eval follow` with the --exec training.precision of the finished "
                "stage",
                stage,
                ", ".join(map(str, left_out)),
            )
    return by_stage


def _link_training_run(context: FlowContext, training: FollowedTraining) -> None:
    """Tag the MLflow run of the follower with the run that trained the stage, or is training it."""
    tags = {"stage": training.stage, "follows": training.label}
    query = f"tags.{TRAINING_TAG} = '{training.label}'"
    tracking = context.run.tracking
    run = tracking.find_last_run(f"{query} and tags.reused = 'false'")
    run = run or tracking.find_last_run(query)
    if run:
        tags["training_run"] = run.info.run_id
    context.run.set_tags(tags)


@contextmanager
def single_follower(training: FollowedTraining) -> Iterator[None]:
    """Hold the lock of the only follower of a training.

    Raises:
        ConfigError: another process follows it.
    """
    lock = Path(f"{training.folder}{FOLLOWER_LOCK_SUFFIX}")
    try:
        with exclusive_lock(lock, f"follow {training.label}", timeout_s=0):
            yield
    except TimeoutError:
        raise ConfigError(
            f"another process follows {training.label}",
            expected="one follower per training",
            fix="wait until it ends, or end it",
        ) from None


def follow_training(
    context: FlowContext,
    training: FollowedTraining,
    evaluate: Evaluate,
    *,
    every_steps: int,
    wait: bool,
) -> list[EvaluatedCheckpoint]:
    """Evaluate the checkpoints of a training until it ends; return them by step.

    Args:
        every_steps: evaluate only the checkpoints after multiples of this number of steps.
        wait: also wait for a training that has not started or was interrupted.

    Raises:
        ConfigError: the training has not started.
    """
    if not (wait or training.is_running() or training.finished() or training.folder.exists()):
        raise ConfigError(
            f"stage {training.stage} of {context.recipe.name} is not in training",
            expected="a training that runs, was interrupted or is finished, with the same recipe",
            fix="start it, for example with `codegen train`, or wait for it with --wait",
        )
    exported = training.exported_steps()
    points: dict[int, EvaluatedCheckpoint] = {}
    skipped: set[int] = set()

    def add(step: int, title: str, checkpoint: Artifact) -> None:
        points[step] = _evaluate_checkpoint(context, training, step, title, checkpoint, evaluate)
        _link_training_run(context, training)

    while True:
        # Read first: a training that ends during the search is searched once more.
        is_running = training.is_running()
        finished = training.finished()
        saved = training.saved_steps()
        for step in sorted({*saved, *exported} - points.keys() - skipped):
            checkpoint = None
            if step % every_steps == 0:
                checkpoint = exported.get(step) or _export(context, training, saved[step])
            if checkpoint:
                add(step, f"{training.stage} step {step}", checkpoint)
            else:
                skipped.add(step)
        if finished:
            add(context.recipe.training.stages[training.stage].steps, training.stage, finished)
        if finished or not (is_running or wait):
            return [points[step] for step in sorted(points)]
        time.sleep(_POLL_INTERVAL_S)


def _export(context: FlowContext, training: FollowedTraining, saved: Path) -> Artifact | None:
    """Return a checkpoint inside a stage as an artifact; None if it was pruned meanwhile or is
    damaged."""
    from components.training.checkpoint.export import snapshot_checkpoint

    folder = Path(f"{training.folder}{SNAPSHOT_SUFFIX}")
    try:
        snapshot = snapshot_checkpoint(saved, folder)
        if snapshot is None:
            logger.warning("the checkpoint %s was pruned meanwhile or is damaged", saved.name)
            return None
        return _publish_weights(context, training, snapshot)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish_weights(
    context: FlowContext, training: FollowedTraining, snapshot: VerifiedCheckpoint
) -> Artifact:
    from components.training.checkpoint.export import export_weights
    from components.training.run_file import CODE_VERSION

    recipe, step = context.recipe, int(snapshot.manifest["step"])

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        tokenizer = context.store.fetch_verified(training.parents["tokenizer"])
        export_weights(snapshot, recipe.model, tokenizer, folder)
        return {
            "steps": step,
            "tokens": _num_tokens(training, step),
            "num_parameters": recipe.model.num_parameters,
            "intermediate": True,
        }

    return context.get_or_build(
        f"export {training.stage} step {step}",
        "checkpoint",
        training.step_name(step),
        config=training.config(step),
        parents=training.parents,
        code_version=CODE_VERSION,
        build=build,
    )


def _evaluate_checkpoint(
    context: FlowContext,
    training: FollowedTraining,
    step: int,
    title: str,
    checkpoint: Artifact,
    evaluate: Evaluate,
) -> EvaluatedCheckpoint:
    """Evaluate a checkpoint, and log its metrics to the run of the follower."""
    from components.registry.gate import metrics_of

    metrics = metrics_of(evaluate(title, checkpoint))
    tokens = _num_tokens(training, step)
    with context.run.metric_stream("evaluation") as log_metrics:
        log_metrics({"step": step, "tokens": tokens, **metrics})
    return EvaluatedCheckpoint(
        step=step,
        tokens=tokens,
        checkpoint=checkpoint.label,
        digest=checkpoint.digest,
        metrics=metrics,
    )


def _num_tokens(training: FollowedTraining, step: int) -> int:
    return step * training.recipe.training.stages[training.stage].global_batch_tokens
