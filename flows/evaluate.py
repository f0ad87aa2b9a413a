"""Evaluation flows: all checkpoints of a recipe, a single model, or a stage while it is trained."""

from __future__ import annotations

from contextlib import ExitStack

from prefect import flow
from pydantic import PositiveInt

from components.core.artifact import Artifact
from components.core.config import Config
from flows.prepare import PreparedData, prepare
from flows.runtime.context import open_flow_context
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.benchmark import (
    BenchmarkSession,
    find_protocol,
    load_recipe_protocols,
    run_benchmark,
    run_bits_per_byte,
)
from flows.steps.follow import (
    EvaluatedCheckpoint,
    find_training,
    follow_training,
    single_follower,
)
from flows.steps.report import publish_scores
from flows.steps.resolve_model import resolve_model
from flows.steps.stage_training import stages_to_train
from flows.train import find_init_checkpoint, prepare_and_train


class Evaluations(Config):
    """Evaluations of checkpoints by stage, and reasons for skipped benchmarks."""

    bits_per_byte: dict[str, Artifact]
    """By stage."""
    benchmarks: dict[str, dict[str, Artifact]]
    """By benchmark and stage."""
    skipped: dict[str, str]
    """Reason by benchmark."""

    def of_stage(self, stage: str) -> dict[str, Artifact]:
        """Return the evaluations of a stage by the name of its metrics."""
        evaluations = {"bits_per_byte": self.bits_per_byte, **self.benchmarks}
        return {name: stages[stage] for name, stages in evaluations.items() if stage in stages}

    def by_stage(self) -> dict[tuple[str, str], Artifact]:
        """Return all evaluations by stage and measurement, as the report names them."""
        evaluations = {"bits-per-byte": self.bits_per_byte, **self.benchmarks}
        return {
            (stage, name): evaluation
            for name, stages in evaluations.items()
            for stage, evaluation in stages.items()
        }


@flow(name="evaluate", flow_run_name="evaluate {recipe.name}")
def evaluate(
    recipe: Recipe,
    execution: Execution,
    corpora: PreparedData | None = None,
    checkpoints: dict[str, Artifact] | None = None,
    parent_run: str | None = None,
) -> Evaluations:
    """Evaluate every checkpoint; prepare corpora and train checkpoints first if None."""
    if parent_run is None:  # The pipeline has checked this already.
        preflight_check(recipe, execution)
    corpora, checkpoints = prepare_and_train(recipe, execution, corpora, checkpoints, parent_run)
    with open_flow_context(recipe, execution, "evaluate", parent_run) as context:
        context.run.tracking.register_dvc_md5(corpora.raw.values())
        protocols, skipped = load_recipe_protocols(context)
        # Before the session, whose sampler keeps a model in the memory of the same devices.
        bits_per_byte = {
            stage: run_bits_per_byte(context, stage, checkpoint, corpora.prepared)
            for stage, checkpoint in checkpoints.items()
        }
        benchmarks: dict[str, dict[str, Artifact]] = {name: {} for name in protocols}
        with BenchmarkSession(context) as session:
            for stage, checkpoint in checkpoints.items():
                for name, protocol in protocols.items():
                    benchmarks[name][stage] = run_benchmark(
                        context, stage, checkpoint, protocol, session
                    )
        evaluations = Evaluations(
            bits_per_byte=bits_per_byte, benchmarks=benchmarks, skipped=skipped
        )
        publish_scores(context, checkpoints, corpora.prepared, evaluations.by_stage(), skipped)
    return evaluations


@flow(name="evaluate-model", flow_run_name="evaluate {model}")
def evaluate_model(
    model: str, benchmarks: tuple[str, ...], recipe: Recipe, execution: Execution
) -> tuple[Artifact, dict[str, Artifact]]:
    """Evaluate a single model on benchmarks.

    Args:
        model: see `resolve_model`.
        benchmarks: benchmarks of the paper or the recipe by name, or a file in a format of
            `custom_benchmark`.
        recipe: provides the benchmark settings and the seed; its model and training are not used.
        execution: where and how fast.

    Returns:
        The checkpoint, and its evaluations by benchmark.

    Raises:
        ConfigError: the model does not exist.
        EvaluationError: a file is missing or is not a benchmark.
    """
    protocols = {name: find_protocol(name, recipe, execution) for name in benchmarks}
    with open_flow_context(recipe, execution, "evaluate model", None) as context:
        checkpoint = resolve_model(context, model)
        with BenchmarkSession(context) as session:
            evaluations = {
                name: run_benchmark(context, checkpoint.name, checkpoint, protocol, session)
                for name, protocol in protocols.items()
            }
    return checkpoint, evaluations


BITS_PER_BYTE = "bits-per-byte"
"""Name of the measurement among the benchmarks of a followed training."""


@flow(name="follow-training", flow_run_name="follow {stage} of {recipe.name}")
def follow(
    recipe: Recipe,
    execution: Execution,
    stage: str,
    benchmarks: tuple[str, ...] = (BITS_PER_BYTE,),
    every_steps: PositiveInt = 1,
    wait: bool = False,
) -> list[EvaluatedCheckpoint]:
    """Evaluate the checkpoints of a stage while it is trained, until the training ends.

    Args:
        recipe: the recipe of the training; also provides the settings of the evaluations.
        execution: where the training writes its checkpoints.
        stage: the stage in training.
        benchmarks: `bits-per-byte`, `humaneval`, `mtpb`, or a file of problems.
        every_steps: evaluate only checkpoints after multiples of this number of steps, and the
            last.
        wait: also wait for a training that has not started or was interrupted.

    Raises:
        ConfigError: the stage does not exist or is not in training, or another process follows it.
    """
    stages_to_train(recipe, stage)  # Raises an error for an unknown stage.
    protocols = [
        find_protocol(name, recipe, execution) for name in benchmarks if name != BITS_PER_BYTE
    ]
    init_checkpoint = find_init_checkpoint(recipe, execution, None)
    corpora = prepare(recipe, execution, init_checkpoint=init_checkpoint)
    with open_flow_context(recipe, execution, f"follow {stage}", None) as context:
        training = find_training(
            context, stage, corpora.prepared, corpora.tokenizer, init_checkpoint, wait=wait
        )
        with single_follower(training), ExitStack() as stack:
            session = stack.enter_context(BenchmarkSession(context)) if protocols else None

            def evaluate_checkpoint(title: str, checkpoint: Artifact) -> dict[str, Artifact]:
                evaluations = {}
                if BITS_PER_BYTE in benchmarks:
                    evaluations["bits_per_byte"] = run_bits_per_byte(
                        context, title, checkpoint, corpora.prepared
                    )
                for protocol in protocols:
                    if session:
                        evaluations[protocol.name] = run_benchmark(
                            context, title, checkpoint, protocol, session
                        )
                return evaluations

            return follow_training(
                context, training, evaluate_checkpoint, every_steps=every_steps, wait=wait
            )
