"""`codegen doctor, ui, serve, upgrade`: this machine, and the servers on it."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.exit_codes import NEGATIVE_RESULT
from flows.cli.options import (
    HIGHEST_PORT,
    ExecutionOverrides,
    Json,
    RecipeName,
    RecipeOverrides,
    console,
    load_execution,
    load_recipe,
    print_json,
)


def doctor(as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """What this machine has and lacks, what it costs to go without, and how to get it. Status 3: runs would fail."""
    execution = load_execution(at)
    from rich.markup import escape

    from flows.runtime.health_checks import run_checks

    findings = []
    for one in run_checks(execution):
        findings.append(one)
        if as_json:
            continue
        mark = (
            "[green]✓[/green]"
            if one.ok
            else "[red]✗[/red]"
            if one.required
            else "[yellow]![/yellow]"
        )
        console.print(f"{mark} {one.name:<12} {escape(one.detail)}", soft_wrap=True)
        if not one.ok:
            console.print(
                f"    without it:  {escape(one.impact)}\n    fix:     {escape(one.fix)}",
                soft_wrap=True,
            )
    fine = all(one.ok for one in findings if one.required)
    if as_json:
        print_json({"fine": fine, "findings": findings})
    if not fine:
        raise typer.Exit(NEGATIVE_RESULT)


PrefectPort = Annotated[int, typer.Option(min=1, max=HIGHEST_PORT, help="Of Prefect's page.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=HIGHEST_PORT, help="Of MLflow's page.")]


def ui(
    prefect_port: PrefectPort = 4200, mlflow_port: MlflowPort = 5000, at: ExecutionOverrides = []
) -> None:
    """Prefect and MLflow on loopback, over what was run."""
    from flows.deploy.serve import run_ui_servers

    run_ui_servers(
        load_execution(at), prefect_port=prefect_port, mlflow_port=mlflow_port, console=console
    )


def serve(
    recipe: RecipeName = "starter",
    cron: Annotated[
        list[str], typer.Option(help='Switch a schedule on: --cron "pipeline=0 1 * * 6".')
    ] = [],
    timezone: Annotated[str, typer.Option(help="Of the schedules.")] = "UTC",
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """Offer the flows as deployments: by schedule, from Prefect's page, or by `prefect deployment run`."""
    chosen, execution = load_recipe(recipe, sets), load_execution(at, runs=True)
    from flows.deploy.serve import serve as offer

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


def upgrade(as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """Bring the databases of a workspace to the installed versions of MLflow and Prefect, each copied first."""
    execution = load_execution(at)
    from flows.servers.db_upgrade import upgrade as upgraded

    found = list(upgraded(execution))
    if as_json:
        print_json(found)
        return
    for one in found:
        said = (
            f"from {one.before or 'none'} to {one.after}; as it was: {one.backup}"
            if one.backup
            else "is up to date"
        )
        console.print(f"{one.name:<8} {one.database} {said}", soft_wrap=True, markup=False)
    if not found:
        console.print("there are no databases yet")
