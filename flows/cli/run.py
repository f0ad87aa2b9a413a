"""`codegen run, prepare, train, evaluate, approve, promote`: the pipeline and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    NEGATIVE_RESULT,
    artifact_summary,
    command,
    complete_from,
    print_json,
    print_line,
    stage_names,
)

if TYPE_CHECKING:
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe


def _require_corpora(recipe: Recipe) -> None:
    recipe.require_corpora()


@command(runs=True, unsafe_option=True, check=_require_corpora)
def run(recipe: Recipe, execution: Execution, as_json: bool) -> None:
    """Run the pipeline: from raw archives to promoted models. Resumes an interrupted run."""
    from flows.pipeline import pipeline

    report = pipeline(recipe, execution)
    if as_json:
        print_json(report)
        return
    typer.echo(Path(report.text).read_text(encoding="utf-8"))
    typer.echo(f"\nResults report      {report.html}")
    typer.echo("Prefect and MLflow  codegen ui")


@command(runs=True, check=lambda recipe: recipe.require_any_corpus())
def prepare(recipe: Recipe, execution: Execution, as_json: bool) -> None:
    """Pull, validate and pack the corpora."""
    from flows.prepare import prepare as prepare_flow

    data = prepare_flow(recipe, execution)
    if as_json:
        print_json({name: artifact_summary(corpus) for name, corpus in data.prepared.items()})


@command(runs=True, check=lambda recipe: recipe.require_any_corpus())
def train(
    recipe: Recipe,
    execution: Execution,
    as_json: bool,
    *,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Train only the stages that lead to this stage.",
            autocompletion=complete_from(stage_names),
        ),
    ] = None,
) -> None:
    """Train the stages, each from the previous checkpoint."""
    from flows.steps.stage_training import stages_to_train
    from flows.train import train as train_flow

    # Errors before a server starts.
    recipe.require_corpora(map(recipe.training.corpus_of, stages_to_train(recipe, stage)))
    checkpoints = train_flow(recipe, execution, last_stage=stage)
    if as_json:
        print_json({name: artifact_summary(checkpoints[name]) for name in checkpoints})


@command(runs=True, unsafe_option=True, check=_require_corpora)
def evaluate(recipe: Recipe, execution: Execution, as_json: bool) -> None:
    """Evaluate all checkpoints of a recipe: bits per byte and benchmarks.

    `codegen eval MODEL` evaluates any single model.
    """
    from flows.evaluate import evaluate as evaluate_flow

    results = evaluate_flow(recipe, execution)
    if as_json:
        evaluations = [
            {"stage": stage, "benchmark": benchmark, **artifact_summary(evaluation)}
            for (stage, benchmark), evaluation in results.by_stage().items()
        ]
        print_json({"evaluations": evaluations, "skipped": results.skipped})


@command()
def approve(
    checkpoint: Annotated[
        str,
        typer.Argument(help="checkpoint/NAME-RECIPE, as the error of the stopped run prints it."),
    ],
    execution: Execution,
    as_json: bool,
    *,
    reason: Annotated[str, typer.Option(help="Reason, stored with the approval.")],
) -> None:
    """Approve a checkpoint that did not pass the gate after its stage. The next run trains the
    stages that start from it.
    """
    tracking = execution.open_tracking()
    from components.registry.stage_gate import approve_checkpoint
    from flows.steps.approval import current_user

    user = f"{current_user()} (codegen approve)"
    decision = approve_checkpoint(tracking, checkpoint, user, reason)
    if as_json:
        print_json(decision)
        return
    print_line(f"{decision.checkpoint}: {decision.summary}")


@command(runs=True, unsafe_option=True, check=_require_corpora)
def promote(recipe: Recipe, execution: Execution, as_json: bool) -> None:
    """Register the checkpoints, and promote those that pass the gate. Exits with 3 if the gate
    refuses a model.
    """
    from flows.promote import promote as promote_flow

    promotions = promote_flow(recipe, execution)
    if as_json:
        print_json(promotions)
    if any(promotion.decision.outcome == "refused" for promotion in promotions):
        raise typer.Exit(NEGATIVE_RESULT)
