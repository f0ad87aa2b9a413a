"""`codegen artifacts, why, lineage, recipe, plan, deepspeed`: what there is, where it came from, and what a run would take.

Nothing here makes or changes anything; heavy libraries are imported inside the command that needs them.
"""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from flows.cli.options import (
    DEVICE_NAMES,
    KINDS,
    RECIPE_NAMES,
    ExecutionOverrides,
    Json,
    OneStage,
    RecipeArgument,
    RecipeName,
    RecipeOverrides,
    artifact_summary,
    complete_from,
    console,
    load_execution,
    load_recipe,
    print_json,
)

recipes = typer.Typer(no_args_is_help=True, help="What can be made.")

Label = Annotated[str, typer.Argument(help="kind/name-recipe, as printed by a run.")]


@recipes.command("list")
def list_recipes(as_json: Json = False) -> None:
    """The recipes and how many parameters their models have."""
    found = {name: load_recipe(name, []) for name in RECIPE_NAMES}
    if as_json:
        print_json(
            [
                {"recipe": name, "name": one.name, "num_parameters": one.model.num_parameters}
                for name, one in found.items()
            ]
        )
        return
    for name, one in found.items():
        typer.echo(
            f"{name:<10} {one.name:<18} {one.model.num_parameters / 1e6:>10,.1f}M parameters"
        )


@recipes.command("show")
def show_recipe(name: RecipeArgument, sets: RecipeOverrides = []) -> None:
    """Every field of a recipe, as JSON."""
    print_json(load_recipe(name, sets))


def artifacts(
    kind: Annotated[
        str, typer.Option(help="Of one kind only.", autocompletion=complete_from(KINDS))
    ] = "",
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """What is in the store, the oldest first."""
    from components.core.artifact import Kind
    from components.core.errors import ConfigError

    if kind and kind not in get_args(Kind):
        raise ConfigError(
            f"there is no kind {kind!r}",
            expected=f"one of {', '.join(get_args(Kind))}",
            fix="choose one of these",
        )
    found = [
        one for one in load_execution(at).open_store().list_artifacts() if kind in ("", one.kind)
    ]
    if as_json:
        print_json([artifact_summary(one) for one in found])
        return
    for one in found:
        typer.echo(f"{one.provenance.get('created_at')}  {one.digest[:12]}  {one.label}")


def lineage(label: Label, as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """What an artifact was made from, down to the raw corpora."""
    store = load_execution(at).open_store()
    found = store.lineage(store.load(label))
    if as_json:
        print_json([artifact_summary(one) | {"parents": one.parents} for one in found])
        return
    for one in found:
        inputs = ", ".join(
            f"{parent.role} {parent.kind}/{parent.name} {parent.digest[:12]}"
            for parent in one.parents
        )
        typer.echo(f"{one.digest[:12]}  {one.label}  <-  {inputs}")


def why(label: Label, as_json: Json = False, at: ExecutionOverrides = []) -> None:
    """Why an artifact was made anew: what differs from its nearest sibling, in recipe, inputs and code."""
    store = load_execution(at).open_store()
    from components.core.recipe_diff import diff_against_nearest as nearest
    from components.core.recipe_diff import explain_rebuild, format_changes

    chosen = store.load(label)
    sibling, _ = nearest(store, chosen) or (None, [])
    found = explain_rebuild(store, sibling, chosen) if sibling else ()
    if as_json:
        print_json(
            {
                "artifact": chosen.label,
                "sibling": sibling.label if sibling else None,
                "reasons": found,
            }
        )
    elif sibling is None:
        typer.echo(f"{chosen.label} is the only one of its kind and name: nothing to compare with.")
    else:
        typer.echo(
            f"{chosen.label}\nwas made though there was {sibling.label} of {sibling.provenance.get('created_at')}, for"
        )
        for line in format_changes(found):
            typer.echo(line)


def deepspeed(
    recipe: RecipeName = "starter",
    stage: OneStage = "nl",
    sets: RecipeOverrides = [],
    at: ExecutionOverrides = [],
) -> None:
    """The configuration that a stage passes to DeepSpeed, as JSON."""
    chosen, execution = load_recipe(recipe, sets), load_execution(at)
    from flows.cli.plan import deepspeed as configuration

    print_json(configuration(chosen, execution.training, stage))


def plan(
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "--model",
            "-r",
            help=f"One of {', '.join(RECIPE_NAMES)}.",
            autocompletion=complete_from(RECIPE_NAMES),
        ),
    ] = "starter",
    gpus: Annotated[
        int, typer.Option(help="Devices, those that share a copy of the model included.")
    ] = 1,
    gpu: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(DEVICE_NAMES)}, the last for cores.",
            autocompletion=complete_from(DEVICE_NAMES),
        ),
    ] = "h100",
    micro_batch: Annotated[int, typer.Option(help="Sequences per device and forward pass.")] = 1,
    zero_stage: Annotated[int | None, typer.Option(help="0 to 3. None: all are compared.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="bf16 or fp32. None: bf16, fp32 on cpu.")
    ] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Compute blocks again.")
    ] = False,
    offload: Annotated[
        str, typer.Option(help="To the host's memory: none, optimizer, or all (ZeRO 3).")
    ] = "none",
    tensor_parallel: Annotated[
        int, typer.Option(help="Devices that share the heads of a copy (ZeRO 1, 2).")
    ] = 1,
    sequence_parallel: Annotated[
        int, typer.Option(help="Devices that share the positions of a sequence.")
    ] = 1,
    price: Annotated[float | None, typer.Option(help="Of one device for an hour.")] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the peak that is reached. None: an assumption.")
    ] = None,
    as_json: Json = False,
    sets: RecipeOverrides = [],
) -> None:
    """What training takes, before it starts: memory by ZeRO stage, tokens, FLOPs, hours, disk, cost."""
    chosen = load_recipe(recipe, sets)
    from components.training.planning.devices import device as device_of
    from components.training.planning.parallel_layout import ParallelLayout
    from flows.cli import plan as planning

    device, asked = device_of(gpu), planning.recipe_options(recipe, sets)
    setting = ParallelLayout.parse(
        {
            "world_size": gpus,
            "micro_batch": micro_batch,
            "tensor_parallel": tensor_parallel,
            "sequence_parallel": sequence_parallel,
            "zero_stage": (2 if tensor_parallel > 1 else 3) if zero_stage is None else zero_stage,
            "precision": precision or ("fp32" if gpu == "cpu" else "bf16"),
            "checkpoint_activations": checkpoint_activations,
            "offload": offload,
        }
    )
    made = planning.plan(
        chosen, setting, device, zero_stage=zero_stage, mfu=mfu, price=price, asked=asked
    )
    if as_json:
        print_json(made)
    else:
        planning.print_plan(made, chosen, console, asked=asked)
