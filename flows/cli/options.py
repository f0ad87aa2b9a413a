"""What the commands of `codegen` share: their options, the recipe and the place that these mean, and what they print with.

Environment variables are read here and in `cli.main`, and nowhere else. It imports no more than Typer and Rich, so that the
help of a command comes at once; for that the words that a command
takes stand here a second time, and a test compares them. What is
not covered: the commands (`run_cli`, `look_cli`, `machine_cli`, `data_cli`, `eval_cli`, `models_cli`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from components.core.artifact import Artifact
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe

console = Console(highlight=False)

HIGHEST_PORT = 65_535

RECIPE_NAMES = ("starter", "tiny", "350m", "2b", "6b", "16b")
STAGE_NAMES = ("nl", "multi", "mono")
DEVICE_NAMES = ("h100", "h200", "a100-80", "a100-40", "l40s", "cpu")
KINDS = (
    "raw-corpus", "validation", "tokenizer", "prepared-corpus", "checkpoint", "samples", "evaluation", "registered-model",
    "report",
)  # fmt: skip


def complete_from(words: Sequence[str]) -> Callable[[str], list[str]]:
    """What a shell proposes for an option or argument: those of the words that begin as what is typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


_RECIPES = f"One of {', '.join(RECIPE_NAMES)}."
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", help=_RECIPES, metavar="NAME", autocompletion=complete_from(RECIPE_NAMES)
    ),
]
RecipeArgument = Annotated[
    str, typer.Argument(help=_RECIPES, autocompletion=complete_from(RECIPE_NAMES))
]
LastStage = Annotated[
    str,
    typer.Option(
        help="The last stage to train: nl, multi or mono.",
        autocompletion=complete_from(STAGE_NAMES),
    ),
]
OneStage = Annotated[
    str, typer.Option(help="nl, multi or mono.", autocompletion=complete_from(STAGE_NAMES))
]
RecipeOverrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="Override a field of the recipe: training.stages.nl.steps=200",
        metavar="FIELD=VALUE",
    ),
]
ExecutionOverrides = Annotated[
    list[str],
    typer.Option(
        "--exec",
        help="Override a field of the execution: training.world_size=1",
        metavar="FIELD=VALUE",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

Unsafe = Annotated[
    bool,
    typer.Option(
        "--unsafe-execution",
        help="Where nothing isolates, execute what a model wrote all the same. Results say so, and nothing is promoted.",
    ),
]


def to_jsonable(value: Any) -> Any:
    """Named tuples as objects of their fields, for JSON would make lists of them; all else as it is."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: to_jsonable(one) for name, one in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(one) for one in value]
    return (
        {name: to_jsonable(one) for name, one in value.items()}
        if isinstance(value, dict)
        else value
    )


def print_json(document: Any) -> None:
    """One JSON document on standard output, of plain values and our models; what JSON has no word for (NaN) is null."""
    from pydantic_core import to_json

    typer.echo(to_json(to_jsonable(document), indent=2, inf_nan_mode="null"))


def artifact_summary(artifact: Artifact) -> dict[str, Any]:
    """An artifact as commands print it: what names it and what is known of it, without the list of its files."""
    about = artifact.model_dump(
        mode="json", include={"kind", "name", "digest", "address", "statistics"}
    )
    return {
        "artifact": artifact.label,
        "created_at": artifact.provenance.get("created_at"),
        **about,
    }


def load_recipe(name: str, sets: list[str]) -> Recipe:
    """The recipe that a command was asked for."""
    from flows.settings.recipes import recipe

    return recipe(name).override(sets)


def load_execution(places: list[str], *, runs: bool = False, unsafe: bool = False) -> Execution:
    """The place of this run; environment variables are read here.

    With `runs` there has to be room for a run's records, and a Prefect server that was named has to answer.
    """
    from components.core.processes import reap_children_on_exit
    from flows.settings.execution import Execution, setup_environment

    given = {
        name: os.environ[variable]
        for name, variable in {
            "workspace": "CODEGEN_WORKSPACE",
            "store": "CODEGEN_STORE",
            "tracking_uri": "MLFLOW_TRACKING_URI",
            "archives": "CODEGEN_ARCHIVES",
            "mtpb_path": "CODEGEN_MTPB",
        }.items()
        if os.environ.get(variable)
    }
    execution = Execution.parse(given).override(
        [*places, *(["unsafe_execution=true"] if unsafe else [])]
    )
    if runs:
        execution.require_disk_space()
    setup_environment(execution)
    if runs:
        from flows.servers.db_upgrade import require_current_schema
        from flows.servers.local_servers import require_healthy_prefect

        require_healthy_prefect()
        require_current_schema()
    reap_children_on_exit()
    return execution
