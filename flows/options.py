"""What the commands of `codegen` share: their options, the recipe and the place that these mean, and the console.

The one place that reads environment variables. What is not covered: the commands (`cli`, `data_cli`).
"""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from components.core.watch import watch_over_children
from flows.execution import Execution, prepare_environment
from flows.recipes import RECIPES, Recipe, recipe

console = Console(highlight=False)

RecipeName = Annotated[str, typer.Option("--recipe", "-r", help=f"One of {', '.join(RECIPES)}.")]
Sets = Annotated[list[str], typer.Option("--set", help="Override a field of the recipe: training.stages.nl.steps=200")]
Places = Annotated[list[str], typer.Option("--at", help="Override a field of the execution: training.num_processes=1")]

Unsafe = Annotated[
    bool,
    typer.Option(
        "--unsafe-execution",
        help="Where nothing isolates, execute what a model wrote all the same. Results say so, and nothing is promoted.",
    ),
]


def chosen_recipe(name: str, sets: list[str]) -> Recipe:
    """The recipe that a command was asked for."""
    return recipe(name).override(sets)


def chosen_execution(places: list[str], *, runs: bool = False, unsafe: bool = False) -> Execution:
    """The place of this run; environment variables are read here and nowhere else.

    With `runs` there has to be room for a run's records.
    """
    given = {
        name: os.environ[variable]
        for name, variable in {
            "workspace": "CODEGEN_WORKSPACE",
            "store": "CODEGEN_STORE",
            "tracking_uri": "MLFLOW_TRACKING_URI",
            "archives": "CODEGEN_ARCHIVES",
            "mtpb_file": "CODEGEN_MTPB",
        }.items()
        if os.environ.get(variable)
    }
    execution = Execution.parse(given).override([*places, *(["unsafe_execution=true"] if unsafe else [])])
    if runs:
        execution.require_room()
    prepare_environment(execution)
    watch_over_children()
    return execution
