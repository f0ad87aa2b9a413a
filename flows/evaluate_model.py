"""Evaluation of one model, whoever made it: a folder as it is released, a checkpoint of the store, a registered version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from flows.desk import desk
from flows.execution import Execution
from flows.measure import Bench, measure
from flows.models import find_model
from flows.recipes import Recipe

if TYPE_CHECKING:
    from components.evaluation.plan import Plan


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
    with desk(recipe, execution, "evaluate model", None) as here:
        checkpoint = find_model(here, model)
        with Bench(here) as bench:
            evaluations = {
                name: measure(here, plan.name, checkpoint.name, checkpoint, plan, bench) for name, plan in plans.items()
            }
    return checkpoint, evaluations


def _plan(benchmark: str, recipe: Recipe, execution: Execution) -> Plan:
    from components.evaluation import humaneval, mtpb
    from components.evaluation.own_file import read_benchmark
    from components.evaluation.problems import find_mtpb

    if benchmark == "humaneval":
        return humaneval.plan(recipe.evaluation.humaneval)
    if benchmark == "mtpb":
        found = find_mtpb(execution.mtpb_file, execution.workspace_path / "cache")
        if found.path is None:
            raise ConfigError(
                found.missing, expected="the official file", do="set CODEGEN_MTPB, or choose --benchmark humaneval"
            )
        return mtpb.plan(recipe.evaluation.mtpb, found.path)
    return humaneval.sampled(read_benchmark(Path(benchmark)), recipe.evaluation.humaneval)
