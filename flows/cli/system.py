"""`codegen doctor, ui, serve, notifications, db`: this machine and its servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import NEGATIVE_RESULT, Port, command, console, print_json, print_line

if TYPE_CHECKING:
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe

notifications = typer.Typer(
    no_args_is_help=True, help="Send notifications about failed runs, approvals and promotions."
)
db = typer.Typer(no_args_is_help=True, help="Upgrade the MLflow and Prefect databases.")


@command()
def doctor(execution: Execution, as_json: bool) -> None:
    """Check this machine: missing requirements, their impact and their fix. Exits with 3 if runs
    would fail.
    """
    from rich.markup import escape

    from flows.runtime.health_checks import run_checks

    results = []
    for result in run_checks(execution):
        results.append(result)
        if as_json:
            continue
        symbol = "[green]✓[/green]"
        if not result.ok:
            symbol = "[red]✗[/red]" if result.required else "[yellow]![/yellow]"
        console.print(f"{symbol} {result.name:<12} {escape(result.detail)}", soft_wrap=True)
        if not result.ok:
            print_line(f"    impact:  {result.impact}\n    fix:     {result.fix}")
    passed = all(result.ok for result in results if result.required)
    if as_json:
        print_json({"ok": passed, "checks": results})
    if not passed:
        raise typer.Exit(NEGATIVE_RESULT)


@command()
def ui(execution: Execution, *, prefect_port: Port = 4200, mlflow_port: Port = 5000) -> None:
    """Start the Prefect and MLflow UIs on loopback."""
    from flows.servers.local_servers import run_ui_servers

    run_ui_servers(execution, prefect_port=prefect_port, mlflow_port=mlflow_port, console=console)


@command()
def serve(
    recipe_name: str,
    recipe: Recipe,
    execution: Execution,
    *,
    cron: Annotated[
        list[str],
        typer.Option(
            help='Activate the schedule of a flow: --cron "pipeline=0 1 * * 6". Repeatable.',
            metavar="FLOW=CRON",
            default_factory=list,
            show_default=False,
        ),
    ],
    timezone: Annotated[str, typer.Option(help="Time zone of the schedules.")] = "UTC",
    prefect_port: Port = 4200,
    mlflow_port: Port = 5000,
) -> None:
    """Serve the flows as Prefect deployments, with optional schedules."""
    from flows.deploy.serve import serve as serve_deployments

    crons = {}
    for text in cron:
        flow_name, _, schedule = text.partition("=")
        crons[flow_name] = schedule
    serve_deployments(
        recipe,
        execution,
        name=Path(recipe_name).stem,
        crons=crons,
        timezone=timezone,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        console=console,
    )


@notifications.command()
@command()
def add(
    url: Annotated[
        str,
        typer.Argument(
            help="https://... receives JSON; mailtos://USER:PASSWORD@SERVER:PORT?from=A&to=B "
            "receives e-mail. - reads it from standard input: other users of the machine can read "
            "the arguments of a command."
        ),
    ],
    execution: Execution,  # noqa: ARG001 - sets up the environment
    as_json: bool,
    *,
    on: Annotated[
        list[str],
        typer.Option(
            help="Event: failed, approval, promoted or refused. Repeatable. Default: all events.",
            metavar="EVENT",
            default_factory=list,
            show_default=False,
        ),
    ],
) -> None:
    """Send notifications about events to a URL."""
    from flows.deploy.automations import NOTIFICATION_RULES, subscribe

    if url == "-":
        url = typer.get_text_stream("stdin").readline().strip()
    automations = subscribe(url, tuple(on) or tuple(NOTIFICATION_RULES))
    if as_json:
        print_json({"automations": automations})
        return
    for name in automations:
        print_line(f"created  {name}")


@db.command()
@command()
def upgrade(execution: Execution, as_json: bool) -> None:
    """Upgrade the databases of the workspace to the installed MLflow and Prefect, after a
    backup."""
    from flows.servers.db_upgrade import upgrade as upgrade_databases

    upgrades = list(upgrade_databases(execution))
    if as_json:
        print_json(upgrades)
        return
    for result in upgrades:
        text = "is up to date"
        if result.backup:
            versions = f"{result.old_revision or 'none'} to {result.new_revision}"
            text = f"upgraded from {versions}; backup: {result.backup}"
        print_line(f"{result.name:<8} {result.database} {text}")
    if not upgrades:
        console.print("there are no databases")
