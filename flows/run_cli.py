"""`codegen run, prepare, train, evaluate, promote`: the whole chain, and each part of it alone.

Every command is a thin call of a flow, which is imported inside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.options import (
    Json,
    LastStage,
    Places,
    RecipeName,
    Sets,
    Unsafe,
    chosen_execution,
    chosen_recipe,
    facts_of,
    print_json,
)
from flows.status import ANSWER_IS_NO

if TYPE_CHECKING:  # It takes a while to import.
    from flows.execution import Execution


def _begun(at: list[str], *, unsafe: bool = False) -> Execution:
    """The place of a run, once all is there that a flow needs."""
    execution = chosen_execution(at, runs=True, unsafe=unsafe)
    from flows.beginning import begin

    begin()
    return execution


def run(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: Sets = [],  # noqa: B006 - Typer copies it
    at: Places = [],  # noqa: B006
    unsafe: Unsafe = False,
) -> None:
    """The whole chain: from raw archives to promoted models and a page of results. Continues what was killed."""
    chosen, execution = chosen_recipe(recipe, sets), _begun(at, unsafe=unsafe)
    from flows.pipeline import pipeline

    page = pipeline(chosen, execution)
    if as_json:
        print_json(page)
        return
    typer.echo(Path(page.text).read_text(encoding="utf-8"))
    typer.echo(f"\nThe page of results  {page.html}\nLook around          codegen ui   (Prefect and MLflow on loopback)")


def prepare(recipe: RecipeName = "starter", as_json: Json = False, sets: Sets = [], at: Places = []) -> None:  # noqa: B006
    """Pull, validate and pack the corpora."""
    chosen, execution = chosen_recipe(recipe, sets), _begun(at)
    from flows.prepare import prepare as flow

    corpora = flow(chosen, execution)
    if as_json:
        print_json({name: facts_of(one) for name, one in corpora.prepared.items()})


def train(
    recipe: RecipeName = "starter",
    stage: LastStage = "mono",
    as_json: Json = False,
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
) -> None:
    """Train the stages up to one, each from the last one's weights."""
    chosen, execution = chosen_recipe(recipe, sets), _begun(at)
    from flows.train import stages_of
    from flows.train import train as flow

    checkpoints = flow(chosen, execution, last_stage=stages_of(chosen, stage)[-1])
    if as_json:
        print_json({name: facts_of(one) for name, one in checkpoints.items()})


def evaluate(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
    unsafe: Unsafe = False,
) -> None:
    """Measure every checkpoint: bits per byte, HumanEval, MTPB."""
    chosen, execution = chosen_recipe(recipe, sets), _begun(at, unsafe=unsafe)
    from flows.evaluate import evaluate as flow

    measured = flow(chosen, execution)
    if as_json:
        print_json(
            {
                "evaluations": [
                    {"stage": stage, "benchmark": benchmark, **facts_of(one)}
                    for (stage, benchmark), one in measured.by_stage().items()
                ],
                "skipped": measured.skipped,
            }
        )


def promote(
    recipe: RecipeName = "starter",
    as_json: Json = False,
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
    unsafe: Unsafe = False,
) -> None:
    """Register the checkpoints, and promote those that pass the gate. Ends with status 3 where the gate refuses one."""
    chosen, execution = chosen_recipe(recipe, sets), _begun(at, unsafe=unsafe)
    from flows.promote import promote as flow

    promotions = flow(chosen, execution)
    if as_json:
        print_json(promotions)
    if any(one.decision.outcome == "refused" for one in promotions):
        raise typer.Exit(ANSWER_IS_NO)
