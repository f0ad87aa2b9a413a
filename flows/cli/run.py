"""`codegen run, prepare, train, evaluate, promote`: the whole chain, and each part of it alone.

Every command is a thin call of a flow, which is imported inside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.cli.exit_codes import NEGATIVE_RESULT
from flows.cli.options import (
    ExecutionOverrides,
    Json,
    LastStage,
    RecipeName,
    RecipeOverrides,
    Unsafe,
    artifact_summary,
    load_execution,
    load_recipe,
    print_json,
)

if TYPE_CHECKING:  # It takes a while to import.
    from flows.settings.execution import Execution


def _start_run(at: list[str], *, unsafe: bool = False) -> Execution:
    """The place of a run, once all is there that a flow needs."""
    execution = load_execution(at, runs=True, unsafe=unsafe)
    from flows.runtime.startup import import_while_server_starts

    import_while_server_starts()
    return execution


def run(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
    unsafe: Unsafe = False,
) -> None:
    """The whole chain: from raw archives to promoted models and a page of results. Continues what was killed."""
    chosen, execution = load_recipe(recipe, sets), _start_run(at, unsafe=unsafe)
    from flows.pipeline import pipeline

    page = pipeline(chosen, execution)
    if as_json:
        print_json(page)
        return
    typer.echo(Path(page.text).read_text(encoding="utf-8"))
    typer.echo(
        f"\nThe page of results  {page.html}\nLook around          codegen ui   (Prefect and MLflow on loopback)"
    )


def prepare(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """Pull, validate and pack the corpora."""
    chosen, execution = load_recipe(recipe, sets), _start_run(at)
    from flows.prepare import prepare as flow

    corpora = flow(chosen, execution)
    if as_json:
        print_json({name: artifact_summary(one) for name, one in corpora.prepared.items()})


def train(
    recipe: RecipeName = "starter",
    stage: LastStage = "mono",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """Train the stages up to one, each from the last one's weights."""
    chosen, execution = load_recipe(recipe, sets), _start_run(at)
    from flows.steps.stage_training import stages_up_to
    from flows.train import train as flow

    checkpoints = flow(chosen, execution, last_stage=stages_up_to(chosen, stage)[-1])
    if as_json:
        print_json({name: artifact_summary(one) for name, one in checkpoints.items()})


def evaluate(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
    unsafe: Unsafe = False,
) -> None:
    """Measure every checkpoint: bits per byte, HumanEval, MTPB."""
    chosen, execution = load_recipe(recipe, sets), _start_run(at, unsafe=unsafe)
    from flows.evaluate import evaluate as flow

    measured = flow(chosen, execution)
    if as_json:
        print_json(
            {
                "evaluations": [
                    {"stage": stage, "benchmark": benchmark, **artifact_summary(one)}
                    for (stage, benchmark), one in measured.by_stage().items()
                ],
                "skipped": measured.skipped,
            }
        )


def promote(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
    unsafe: Unsafe = False,
) -> None:
    """Register the checkpoints, and promote those that pass the gate. Ends with status 3 where the gate refuses one."""
    chosen, execution = load_recipe(recipe, sets), _start_run(at, unsafe=unsafe)
    from flows.promote import promote as flow

    promotions = flow(chosen, execution)
    if as_json:
        print_json(promotions)
    if any(one.decision.outcome == "refused" for one in promotions):
        raise typer.Exit(NEGATIVE_RESULT)
