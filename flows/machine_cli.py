"""`codegen doctor, ui, serve, upgrade`: this machine, and the servers on it."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.options import HIGHEST_PORT, Json, Places, RecipeName, Sets, chosen_execution, chosen_recipe, console, print_json
from flows.status import ANSWER_IS_NO


def doctor(as_json: Json = False, at: Places = []) -> None:  # noqa: B006 - Typer copies it
    """What this machine has and lacks, what it costs to go without, and how to get it. Status 3: runs would fail."""
    execution = chosen_execution(at)
    from rich.markup import escape

    from flows.doctor import examine

    findings = []
    for one in examine(execution):
        findings.append(one)
        if as_json:
            continue
        mark = "[green]✓[/green]" if one.fine else "[red]✗[/red]" if one.needed else "[yellow]![/yellow]"
        console.print(f"{mark} {one.name:<12} {escape(one.found)}", soft_wrap=True)
        if not one.fine:
            console.print(f"    without it:  {escape(one.cost)}\n    do this:     {escape(one.remedy)}", soft_wrap=True)
    fine = all(one.fine for one in findings if one.needed)
    if as_json:
        print_json({"fine": fine, "findings": findings})
    if not fine:
        raise typer.Exit(ANSWER_IS_NO)


PrefectPort = Annotated[int, typer.Option(min=1, max=HIGHEST_PORT, help="Of Prefect's page.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=HIGHEST_PORT, help="Of MLflow's page.")]


def ui(prefect_port: PrefectPort = 4200, mlflow_port: MlflowPort = 5000, at: Places = []) -> None:  # noqa: B006
    """Prefect and MLflow on loopback, over what was run."""
    from flows.ui import look

    look(chosen_execution(at), prefect_port=prefect_port, mlflow_port=mlflow_port, console=console)


def serve(
    recipe: RecipeName = "starter",
    cron: Annotated[list[str], typer.Option(help='Switch a schedule on: --cron "pipeline=0 1 * * 6".')] = [],  # noqa: B006
    timezone: Annotated[str, typer.Option(help="Of the schedules.")] = "UTC",
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
) -> None:
    """Offer the flows as deployments: by schedule, from Prefect's page, or by `prefect deployment run`."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at, runs=True)
    from flows.ui import serve as offer

    crons = {flow: when for flow, _, when in (one.partition("=") for one in cron)}
    offer(
        chosen,
        execution,
        name=recipe,
        crons=crons,
        timezone=timezone,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        console=console,
    )


def upgrade(as_json: Json = False, at: Places = []) -> None:  # noqa: B006
    """Bring the databases of a workspace to the installed versions of MLflow and Prefect, each copied first."""
    execution = chosen_execution(at)
    from flows.upgrade import upgrade as upgraded

    found = list(upgraded(execution))
    if as_json:
        print_json(found)
        return
    for one in found:
        said = f"from {one.before or 'none'} to {one.after}; as it was: {one.backup}" if one.backup else "is up to date"
        console.print(f"{one.name:<8} {one.database} {said}", soft_wrap=True, markup=False)
    if not found:
        console.print("there are no databases yet")
