"""Training of a stage: its recipe, inputs, host lock and launch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from components.core.artifact import Artifact, recipe_hash
from components.core.errors import (
    CodegenError,
    ConfigError,
    RemoteError,
    StageInterruptedError,
    TrainingError,
)
from components.core.fingerprint import sha256_file
from components.core.locks import exclusive_lock, user_lock_path
from flows.runtime.context import FlowContext
from flows.runtime.monitoring import training_metrics
from flows.runtime.prefect_artifacts import stage_progress
from flows.runtime.training_view import format_step, training_view
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import corpus_uri
from flows.steps.training_budget import excess_warning, usage_of_stages

if TYPE_CHECKING:  # Imports MLflow and torch.
    from components.registry.tracking import TrackedRun
    from components.training.metrics import Restart, StepMetrics
    from components.training.run_file import StageRun

logger = logging.getLogger(__name__)


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
    finished: Mapping[str, Artifact],
    later_stages: Sequence[str],
) -> Artifact:
    """Return the checkpoint of a stage (docs/paper.md, section 3).

    Args:
        previous: the checkpoint that provides the initial weights; None starts with new weights.
        finished: checkpoints of the stages that were trained before, by stage; their time counts
            towards the budget.
        later_stages: stages that this run trains after this stage.
    """
    from components.training.launch.launcher import train_stage
    from components.training.metrics import read_restarts
    from components.training.run_file import CODE_VERSION, DEEPSPEED_FILE, RESTARTS_FILE

    recipe = context.recipe
    num_steps = recipe.training.stages[stage].steps
    config = stage_config(recipe, stage)
    parents = {"corpus": corpus, "tokenizer": tokenizer}
    if previous:
        parents["initial"] = previous
    name = f"{recipe.name}-{stage}"
    hash_value = recipe_hash(config, parents, CODE_VERSION)
    monitor_folder = context.execution.workspace_path / "monitors" / f"{name}-{hash_value[:12]}"
    restarts = RestartPolicy(stage, context.execution)

    def build(folder: Path, run: TrackedRun) -> Mapping[str, JsonValue]:
        stage_run = _stage_run(context, stage, corpus, tokenizer, previous)
        usage = usage_of_stages(context, finished)
        warn_of_excess = excess_warning(context, usage, later_stages)
        with (
            run.metric_stream() as log_metrics,
            training_view(stage, num_steps, context.console) as show,
            stage_progress(recipe.name, stage, num_steps) as update_progress,
            training_metrics(context.execution, recipe.name, stage, num_steps) as export_metrics,
        ):

            def on_step(step: StepMetrics) -> None:
                metrics = step.model_dump(exclude_none=True)
                if restarts.record_step(step.step):
                    metrics |= _report_restarts(stage, read_restarts(folder / RESTARTS_FILE))
                show(step)
                export_metrics(step)
                update_progress(step.step, format_step(step, num_steps))
                log_metrics(metrics)
                warn_of_excess(step)

            with restarts.attempt():
                statistics = train_stage(
                    folder, stage_run, context.execution.training, on_step, monitor_folder, usage
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
            retry_if=is_restartable,
            num_retries=context.execution.max_restarts,
        )


def is_restartable(error: object) -> bool:
    """Whether an interrupted stage may succeed if it is started again."""
    return isinstance(error, StageInterruptedError | RemoteError)


class RestartPolicy:
    """Decides over the attempts of a flow run whether a stage is started again.

    The same failure twice at the same step, or a failure before the first step of a run, would
    occur again. Ranks of another launcher are not restarted by the flow.
    """

    def __init__(self, stage: str, execution: Execution) -> None:
        self._stage = stage
        self._max_restarts = execution.max_restarts
        self._is_external = execution.training.launcher == "environment"
        self._num_failures = 0
        self._step: int | None = None
        """The last step of the current attempt."""
        self._last_failure: tuple[str, int | None] | None = None

    def record_step(self, step: int) -> bool:
        """Record a step of the current attempt; returns whether it is the first."""
        is_first = self._step is None
        self._step = step
        return is_first

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Raise the error of an attempt that must not be restarted as another class.

        Raises:
            TrainingError: the attempt failed like the one before.
        """
        self._step = None
        try:
            yield
        except Exception as error:
            if not is_restartable(error):
                raise
            raise self._record_failure(cast(CodegenError, error)) from error

    def _record_failure(self, error: CodegenError) -> CodegenError:
        """Return an error that `is_restartable` accepts if and only if the stage is restarted."""
        self._num_failures += 1
        failure, last_failure = (type(error).__name__, self._step), self._last_failure
        self._last_failure = failure
        has_no_step = last_failure is None and self._step is None
        if self._is_external or has_no_step:
            return TrainingError(error.got, expected=error.expected, fix=error.fix)
        if failure == last_failure:
            where = "before its first step" if self._step is None else f"after step {self._step}"
            return TrainingError(
                f"stage {self._stage} failed twice {where}, without progress in between: "
                f"{error.got}",
                expected=error.expected,
                fix=error.fix,
            )
        if self._num_failures > self._max_restarts > 0:
            return TrainingError(
                f"stage {self._stage} failed again after {self._max_restarts} restarts: "
                f"{error.got}",
                expected=f"at most max_restarts, {self._max_restarts}, interruptions; "
                f"{error.expected}",
                fix=error.fix,
            )
        if self._max_restarts:
            logger.warning(
                "stage %s is restarted (%d of %d): %s",
                self._stage,
                self._num_failures,
                self._max_restarts,
                error.got,
            )
        return error


def _report_restarts(stage: str, restarts: Sequence[Restart]) -> dict[str, int]:
    """Log where a stage resumed and the repeated steps; returns metrics of all restarts."""
    if not restarts:
        return {}
    last = restarts[-1]
    damaged = ""
    if last.damaged_steps:
        steps = ", ".join(map(str, last.damaged_steps))
        damaged = f" (damaged checkpoints of newer steps were removed: {steps})"
    logger.warning(
        "stage %s resumed after step %d%s; lost steps: %d",
        stage,
        last.resumed_step,
        damaged,
        last.lost_steps,
    )
    lost_steps = sum(restart.lost_steps for restart in restarts)
    return {"restarts": len(restarts), "lost_steps": lost_steps}


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
