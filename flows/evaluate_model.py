"""Evaluation of one model, whoever made it: a folder as it is released, a checkpoint of the store, a registered version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from flows.runtime.context import open_flow_context
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.benchmark import BenchmarkSession, run_benchmark
from flows.steps.resolve_model import find_model

if TYPE_CHECKING:
    from components.evaluation.benchmarks.protocol import BenchmarkProtocol


@flow(name="evaluate-model", flow_run_name="evaluate {model}")
def evaluate_model(
    model: str, benchmarks: tuple[str, ...], recipe: Recipe, execution: Execution
) -> tuple[Artifact, dict[str, Artifact]]:
    """Measure a model by the programs that it writes.

    Args:
        model: see `find_model`.
        benchmarks: `humaneval`, `mtpb`, or files in a form that `own_file` reads; the latter by HumanEval's protocol.
        recipe: says how benchmarks are run, and the seed; its model and training play no part.

    Returns:
        The checkpoint, and its evaluations by benchmark.

    Raises:
        ConfigError: there is no such model, or MTPB's file is not to be had.
        EvaluationError: a file is no benchmark.
    """
    plans = {name: _plan(name, recipe, execution) for name in benchmarks}
    with open_flow_context(recipe, execution, "evaluate model", None) as here:
        checkpoint = find_model(here, model)
        with BenchmarkSession(here) as bench:
            evaluations = {
                name: run_benchmark(here, plan.name, checkpoint.name, checkpoint, plan, bench)
                for name, plan in plans.items()
            }
    return checkpoint, evaluations


def _plan(benchmark: str, recipe: Recipe, execution: Execution) -> BenchmarkProtocol:
    from components.evaluation.benchmarks import humaneval, mtpb
    from components.evaluation.benchmarks.custom_benchmark import read_benchmark
    from components.evaluation.benchmarks.mtpb import find_mtpb

    if benchmark == "humaneval":
        return humaneval.build_protocol(recipe.evaluation.humaneval)
    if benchmark == "mtpb":
        found = find_mtpb(execution.mtpb_path, execution.workspace_path / "cache")
        if found.path is None:
            raise ConfigError(
                found.missing,
                expected="the official file",
                fix="set CODEGEN_MTPB, or choose --benchmark humaneval",
            )
        return mtpb.build_protocol(recipe.evaluation.mtpb, found.path)
    return humaneval.function_protocol(read_benchmark(Path(benchmark)), recipe.evaluation.humaneval)
