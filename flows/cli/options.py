"""Shared parts of the commands: the `command` decorator, loading of recipe and execution, output.

Importing it loads only Typer and Rich, so help and completion are fast. Lists of names are read
from the modules that own them when the shell asks for completions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Table

    from components.core.artifact import Artifact
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe

console = Console(highlight=False)

MAX_PORT = 65_535
_COLUMN_GAP = 2
_MIN_LAST_WIDTH = 32
"""The last column of a table is not made narrower (assumption: readable text)."""
_UNLIMITED_WIDTH = 10_000
"""Columns; more than any table has (assumption)."""
NEGATIVE_RESULT = 3
"""Exit code of a command that succeeded with a negative result: the gate refused a model, or
`doctor` found a missing requirement."""

# -- names -----------------------------------------------------------------------------------------


def recipe_names() -> Iterable[str]:
    """Return the names of all recipes."""
    from flows.settings.recipes import RECIPES

    return RECIPES


def stage_names() -> Iterable[str]:
    """Return the names of CodeGen's training stages, in order."""
    from flows.settings.recipes import starter

    return starter().training.all_stages


def layout_options() -> Iterable[str]:
    """Return the start of `--sources` for each layout."""
    from components.data.sources.layouts import LAYOUTS

    return [f"{name}=" for name in LAYOUTS]


def device_names() -> Iterable[str]:
    """Return the names of all devices that `codegen plan` knows."""
    from components.training.planning.devices import DEVICES

    return DEVICES


def artifact_kinds() -> Iterable[str]:
    """Return all kinds of artifacts."""
    from components.core.artifact import Kind

    return get_args(Kind)


def complete_from(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a completion function that proposes the names with the typed prefix."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


# -- options ---------------------------------------------------------------------------------------

RECIPE_HELP = "Recipe name (`codegen recipe list`), or a JSON file of a recipe."
MODEL_HELP = "Model folder, checkpoint/NAME-RECIPE, NAME@ALIAS or NAME/VERSION."
Stage = Annotated[
    str,
    typer.Option(help="Stage of the recipe.", autocompletion=complete_from(stage_names)),
]
NumSamples = typer.Option("--num-samples", "-n", min=1, help="Samples per problem or prompt.")
Port = Annotated[int, typer.Option(min=1, max=MAX_PORT, help="Port of the server.")]

_SHARED: dict[str, Any] = {
    "recipe_name": Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            help=RECIPE_HELP,
            metavar="NAME",
            autocompletion=complete_from(recipe_names),
        ),
    ],
    "recipe_overrides": Annotated[
        list[str],
        typer.Option(
            "--set",
            help="Override a recipe field, e.g. training.stages.nl.steps=200. Repeatable.",
            metavar="FIELD=VALUE",
        ),
    ],
    "recipe_sources": Annotated[
        list[str],
        typer.Option(
            "--sources",
            help="Sources in a layout of docs/sources.md, e.g. pile=/data/pile. Repeatable.",
            metavar="LAYOUT[@CORPUS]=URI",
            autocompletion=complete_from(layout_options),
        ),
    ],
    "execution_overrides": Annotated[
        list[str],
        typer.Option(
            "--exec",
            help="Override an execution field, e.g. training.world_size=1. Repeatable.",
            metavar="FIELD=VALUE",
        ),
    ],
    "unsafe": Annotated[
        bool,
        typer.Option(
            "--unsafe-execution",
            help="Run generated code without a sandbox if none is available. Results are marked "
            "and cannot be promoted.",
        ),
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="Print a JSON document.")],
}
"""The shared options, by parameter name."""


def command(
    *,
    recipe: str = "starter",
    runs: bool = False,
    unsafe_option: bool = False,
    check: Callable[[Recipe], None] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that replaces shared parameters of a command by their options.

    `recipe` becomes `--recipe`, `--sources` and `--set`, and the function gets the loaded recipe.
    `execution` becomes `--exec`, and the function gets the execution config with the environment
    set up. `as_json` becomes `--json`. A function with other needs takes the raw values:
    `recipe_name`, `recipe_sources`, `recipe_overrides`, `execution_overrides` and `unsafe`.

    Args:
        recipe: default of `--recipe`.
        runs: whether the command starts flow runs, see `load_execution`.
        unsafe_option: whether `execution` also becomes `--unsafe-execution`.
        check: checks the recipe before a server starts.
    """
    defaults = {
        "recipe_name": recipe,
        "recipe_overrides": [],
        "recipe_sources": [],
        "execution_overrides": [],
        "unsafe": False,
        "as_json": False,
    }

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        names = set(inspect.signature(function).parameters)
        shared = names & set(_SHARED)
        if "recipe" in names:
            shared |= {"recipe_name", "recipe_overrides", "recipe_sources"}
        if "execution" in names:
            shared |= (
                {"execution_overrides", "unsafe"} if unsafe_option else {"execution_overrides"}
            )

        @wraps(function)
        def run(**values: Any) -> None:
            arguments = {name: value for name, value in values.items() if name in names}
            if "recipe" in names:
                overrides, sources = values["recipe_overrides"], values["recipe_sources"]
                arguments["recipe"] = load_recipe(values["recipe_name"], overrides, sources)
                if check:
                    check(arguments["recipe"])
            if "execution" in names:
                overrides = values["execution_overrides"]
                unsafe = values.get("unsafe", False)
                arguments["execution"] = load_execution(overrides, runs=runs, unsafe=unsafe)
            function(**arguments)

        shared_defaults = {name: defaults[name] for name in _SHARED if name in shared}
        run.__signature__ = _signature(function, shared_defaults)  # type: ignore[attr-defined]
        return run

    return decorate


def _signature(
    function: Callable[..., None], shared_defaults: Mapping[str, Any]
) -> inspect.Signature:
    """Return the signature that Typer reads: own parameters first, then the shared options."""
    replaced = (*_SHARED, "recipe", "execution")
    for name in replaced:
        function.__annotations__.pop(name, None)  # Some exist for type checkers only.
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.signature(function, eval_str=True).parameters.values()
    parameters = [
        parameter.replace(kind=keyword) for parameter in signature if parameter.name not in replaced
    ]
    for name, default in shared_defaults.items():
        parameters.append(
            inspect.Parameter(name, keyword, default=default, annotation=_SHARED[name])
        )
    return inspect.Signature(parameters)


# -- loading ---------------------------------------------------------------------------------------


def load_recipe(name: str, overrides: Sequence[str] = (), sources: Sequence[str] = ()) -> Recipe:
    """Return a recipe with sources (see `with_sources`), then with overrides."""
    from flows.settings.recipes import recipe

    loaded = recipe(name)
    if sources:
        from flows.settings.source_layouts import with_sources

        loaded = with_sources(loaded, sources)
    return loaded.override(overrides)


def load_execution(
    overrides: Sequence[str], *, runs: bool = False, unsafe: bool = False
) -> Execution:
    """Return the execution config of environment and overrides, and set up this process.

    With `runs`, also check the free disk space and the configured Prefect server, and start a
    server if none is configured.
    """
    from components.core.processes import reap_children_on_exit
    from flows.settings.execution import execution_from_environment, setup_environment

    if unsafe:
        overrides = [*overrides, "unsafe_execution=true"]
    execution = execution_from_environment(overrides)
    if runs:
        execution.require_disk_space()
    setup_environment(execution, runs=runs)
    if runs:
        from flows.servers.local_servers import require_healthy_prefect

        require_healthy_prefect()
    reap_children_on_exit()
    if runs:
        from flows.servers.temporary_server import import_while_server_starts

        import_while_server_starts(execution)
    return execution


# -- output ----------------------------------------------------------------------------------------


def print_json(document: Any) -> None:
    """Print a JSON document of plain values and configs; NaN and infinities become null."""
    from pydantic_core import to_json

    typer.echo(to_json(_named_tuples_to_dicts(document), indent=2, inf_nan_mode="null"))


def _named_tuples_to_dicts(value: Any) -> Any:
    """Convert named tuples, which JSON would print as lists."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _named_tuples_to_dicts(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named_tuples_to_dicts(item) for item in value]
    return value


def print_line(text: str) -> None:
    """Print a line as it is, without wrapping."""
    console.print(text, soft_wrap=True, markup=False)


def print_sentences(text: str) -> None:
    """Print sentences, wrapped at the width of the terminal."""
    console.print(text, markup=False)


def print_wide(table: Table) -> None:
    """Print a table without cutting it, also if it is wider than the terminal."""
    options = console.options.update(width=_UNLIMITED_WIDTH)
    width = console.measure(table, options=options).maximum
    Console(width=max(width, console.width), highlight=False).print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table that never cuts a cell.

    The last column wraps at the width of the terminal. If the other columns are wider than the
    terminal, a row continues on its next line, as in `docker ps`.
    """
    from rich.cells import cell_len
    from rich.table import Table

    cells = [list(columns), *(list(row) for row in rows)]
    table = Table(box=None, padding=(0, _COLUMN_GAP, 0, 0), title=title, title_justify="left")
    for name in columns:
        table.add_column(name, no_wrap=name != columns[-1], overflow="fold", header_style="bold")
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    widths = [max(map(cell_len, column)) + _COLUMN_GAP for column in zip(*cells, strict=True)]
    width = sum(widths[:-1]) + min(widths[-1], _MIN_LAST_WIDTH)
    Console(width=max(console.width, width, cell_len(title)), highlight=False).print(table)


def artifact_summary(artifact: Artifact) -> dict[str, Any]:
    """Return an artifact as commands print it, without its list of files."""
    fields = {"kind", "name", "digest", "address", "statistics"}
    return {
        "artifact": artifact.label,
        "created_at": artifact.provenance.get("created_at"),
        **artifact.model_dump(mode="json", include=fields),
    }
