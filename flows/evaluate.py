"""Evaluation flows: all checkpoints of a recipe, or a single model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import flow

from components.core.artifact import Artifact
from components.core.config import Config
from flows.prepare import PreparedData
from flows.runtime.context import open_flow_context
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.benchmark import (
    BenchmarkSession,
    find_mtpb_file,
    load_protocol,
    run_benchmark,
    run_bits_per_byte,
)
from flows.steps.report import publish_scores
from flows.steps.resolve_model import resolve_model
from flows.train import prepare_and_train

if TYPE_CHECKING:  # Imports more than the definition of a flow needs.
    from components.report.results import Measurement


class Evaluations(Config):
    """Evaluations of checkpoints by stage, and reasons for skipped benchmarks."""

    bits_per_byte: dict[str, Artifact]
    humaneval: dict[str, Artifact]
    mtpb: dict[str, Artifact]
    skipped: dict[str, str]
    """Reason by benchmark."""

    def of_stage(self, stage: str) -> dict[str, Artifact]:
        """Return the evaluations of a stage by benchmark."""
        benchmarks = {
            "bits_per_byte": self.bits_per_byte,
            "humaneval": self.humaneval,
            "mtpb": self.mtpb,
        }
        return {name: stages[stage] for name, stages in benchmarks.items() if stage in stages}

    def by_stage(self) -> dict[tuple[str, Measurement], Artifact]:
        """Return all evaluations by stage and benchmark."""
        benchmarks: dict[Measurement, dict[str, Artifact]] = {
            "bits-per-byte": self.bits_per_byte,
            "humaneval": self.humaneval,
            "mtpb": self.mtpb,
        }
        return {
            (stage, name): evaluation
            for name, stages in benchmarks.items()
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
        mtpb_file = find_mtpb_file(context)
        benchmarks = ("humaneval", "mtpb") if mtpb_file.path else ("humaneval",)
        protocols = {name: load_protocol(name, recipe, execution) for name in benchmarks}
        # Before the session, whose sampler keeps a model in the memory of the same devices.
        bits_per_byte = {
            stage: run_bits_per_byte(context, stage, checkpoint, corpora.prepared)
            for stage, checkpoint in checkpoints.items()
        }
        results: dict[str, dict[str, Artifact]] = {"humaneval": {}, "mtpb": {}}
        with BenchmarkSession(context) as session:
            for stage, checkpoint in checkpoints.items():
                for name, protocol in protocols.items():
                    results[name][stage] = run_benchmark(
                        context, stage, checkpoint, protocol, session
                    )
        skipped = {} if mtpb_file.path else {"mtpb": mtpb_file.missing}
        evaluations = Evaluations(bits_per_byte=bits_per_byte, skipped=skipped, **results)
        publish_scores(context, checkpoints, corpora.prepared, evaluations.by_stage(), skipped)
    return evaluations


@flow(name="evaluate-model", flow_run_name="evaluate {model}")
def evaluate_model(
    model: str, benchmarks: tuple[str, ...], recipe: Recipe, execution: Execution
) -> tuple[Artifact, dict[str, Artifact]]:
    """Evaluate a single model on benchmarks.

    Args:
        model: see `resolve_model`.
        benchmarks: `humaneval`, `mtpb`, or a file in a format of `custom_benchmark`.
        recipe: provides the benchmark settings and the seed; its model and training are not used.
        execution: where and how fast.

    Returns:
        The checkpoint, and its evaluations by benchmark.

    Raises:
        ConfigError: the model does not exist, or the MTPB file is not available.
        EvaluationError: a file is not a benchmark.
    """
    protocols = {name: load_protocol(name, recipe, execution) for name in benchmarks}
    with open_flow_context(recipe, execution, "evaluate model", None) as context:
        checkpoint = resolve_model(context, model)
        with BenchmarkSession(context) as session:
            evaluations = {
                name: run_benchmark(context, checkpoint.name, checkpoint, protocol, session)
                for name, protocol in protocols.items()
            }
    return checkpoint, evaluations
