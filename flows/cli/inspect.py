"""`codegen recipe, artifacts, lineage, why`: read-only views of recipes and of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    artifact_kinds,
    artifact_summary,
    command,
    complete_from,
    load_recipe,
    print_json,
    print_table,
    recipe_names,
)

if TYPE_CHECKING:
    from flows.settings.execution import Execution

recipes = typer.Typer(no_args_is_help=True, help="List and show recipes.")

Label = Annotated[str, typer.Argument(help="Artifact as KIND/NAME-RECIPE, as a run prints it.")]


@recipes.command("list")
@command()
def list_recipes(as_json: bool) -> None:
    """List the recipes with the number of parameters of their models."""
    loaded = {name: load_recipe(name) for name in recipe_names()}
    if as_json:
        print_json(
            [
                {"recipe": name, "name": recipe.name, "num_parameters": recipe.model.num_parameters}
                for name, recipe in loaded.items()
            ]
        )
        return
    rows = []
    for name, recipe in loaded.items():
        rows.append((name, recipe.name, f"{recipe.model.num_parameters / 1e6:,.1f}M"))
    print_table(["recipe", "name of models", "parameters"], rows)


@recipes.command("show")
@command()
def show_recipe(
    name: Annotated[
        str, typer.Argument(help="Recipe name.", autocompletion=complete_from(recipe_names))
    ],
    recipe_overrides: list[str],
    recipe_sources: list[str],
) -> None:
    """Print all fields of a recipe as JSON."""
    print_json(load_recipe(name, recipe_overrides, recipe_sources))


@command()
def artifacts(
    execution: Execution,
    as_json: bool,
    *,
    kind: Annotated[
        str,
        typer.Option(
            help="Only artifacts of this kind, e.g. checkpoint.",
            autocompletion=complete_from(artifact_kinds),
        ),
    ] = "",
) -> None:
    """List the artifacts of the store by age."""
    from components.core.errors import ConfigError

    if kind and kind not in artifact_kinds():
        raise ConfigError(
            f"there is no artifact kind {kind!r}",
            expected=f"one of {', '.join(artifact_kinds())}",
            fix="choose one of these kinds",
        )
    store = execution.open_store()
    selected = [artifact for artifact in store.list_artifacts() if kind in ("", artifact.kind)]
    if as_json:
        print_json([artifact_summary(artifact) for artifact in selected])
        return
    if not selected:
        typer.echo(f"no artifacts in {store.root}; `codegen run` builds them")
    for artifact in selected:
        created_at = artifact.provenance.get("created_at")
        typer.echo(f"{created_at}  {artifact.digest[:12]}  {artifact.label}")


@command()
def lineage(label: Label, execution: Execution, as_json: bool) -> None:
    """Show the inputs of an artifact, down to the raw corpora."""
    store = execution.open_store()
    ancestors = store.lineage(store.load(label))
    if as_json:
        print_json(
            [artifact_summary(artifact) | {"parents": artifact.parents} for artifact in ancestors]
        )
        return
    for artifact in ancestors:
        inputs = ", ".join(
            f"{parent.role} {parent.kind}/{parent.name} {parent.digest[:12]}"
            for parent in artifact.parents
        )
        typer.echo(f"{artifact.digest[:12]}  {artifact.label}  <-  {inputs}")


@command()
def why(label: Label, execution: Execution, as_json: bool) -> None:
    """Explain why an artifact was rebuilt. Compares recipe, inputs and code with the most similar
    artifact of the same kind and name.
    """
    store = execution.open_store()
    from components.core.recipe_diff import diff_against_nearest, explain_rebuild, format_changes

    artifact = store.load(label)
    sibling, _ = diff_against_nearest(store, artifact) or (None, [])
    changes = explain_rebuild(store, sibling, artifact) if sibling else ()
    if as_json:
        print_json(
            {
                "artifact": artifact.label,
                "sibling": sibling.label if sibling else None,
                "reasons": changes,
            }
        )
    elif sibling is None:
        typer.echo(f"{artifact.label} is the only artifact of its kind and name")
    else:
        created_at = sibling.provenance.get("created_at")
        typer.echo(f"{artifact.label}\ndiffers from {sibling.label} of {created_at} in")
        for line in format_changes(changes):
            typer.echo(line)
