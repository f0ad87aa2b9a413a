"""`codegen`: the command line. Heavy libraries are imported inside the command that needs them.

Every command is a thin call of a flow or a component; an error a person can mend is printed in three lines, no traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn, get_args

import psutil
import typer
from rich.console import Console

from components.core.artifact import Kind
from components.core.errors import CodegenError, ConfigError
from components.model.formats import Dtype, Layout
from components.training.devices import DEVICES
from components.training.devices import device as device_of
from flows.data_cli import data
from flows.eval_cli import evaluation
from flows.models_cli import models
from flows.options import Places, RecipeName, Sets, Unsafe, chosen_execution, chosen_recipe, console
from flows.recipes import RECIPES, recipe

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train and evaluate CodeGen."
)
recipes = typer.Typer(no_args_is_help=True, help="What can be made.")
app.add_typer(data, name="data")
app.add_typer(evaluation, name="eval")
app.add_typer(models, name="models")
app.add_typer(recipes, name="recipe")

Stage = Annotated[str, typer.Option(help="The last stage to train: nl, multi or mono.")]


@app.command()
def run(
    recipe: RecipeName = "starter",
    sets: Sets = [],  # noqa: B006 - Typer copies it
    at: Places = [],  # noqa: B006
    unsafe: Unsafe = False,
) -> None:
    """The whole chain: from raw archives to promoted models and a page of results. Continues what was killed."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at, runs=True, unsafe=unsafe)
    from flows.pipeline import pipeline

    page = pipeline(chosen, execution)
    console.print(Path(page.text).read_text(encoding="utf-8"), soft_wrap=True, markup=False)
    console.print(f"\nThe page of results  {page.html}\nLook around          codegen ui   (Prefect and MLflow on loopback)")


@app.command()
def prepare(recipe: RecipeName = "starter", sets: Sets = [], at: Places = []) -> None:  # noqa: B006
    """Pull, validate and pack the corpora."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at, runs=True)
    from flows.prepare import prepare as flow

    flow(chosen, execution)


@app.command()
def train(recipe: RecipeName = "starter", stage: Stage = "mono", sets: Sets = [], at: Places = []) -> None:  # noqa: B006
    """Train the stages up to one, each from the last one's weights."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at, runs=True)
    from flows.train import stages_of
    from flows.train import train as flow

    flow(chosen, execution, last_stage=stages_of(chosen, stage)[-1])


@app.command()
def evaluate(recipe: RecipeName = "starter", sets: Sets = [], at: Places = [], unsafe: Unsafe = False) -> None:  # noqa: B006
    """Measure every checkpoint: bits per byte, HumanEval, MTPB."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at, runs=True, unsafe=unsafe)
    from flows.evaluate import evaluate as flow

    flow(chosen, execution)


@app.command()
def promote(recipe: RecipeName = "starter", sets: Sets = [], at: Places = [], unsafe: Unsafe = False) -> None:  # noqa: B006
    """Register the checkpoints, and promote those that pass the gate."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at, runs=True, unsafe=unsafe)
    from flows.promote import promote as flow

    flow(chosen, execution)


@recipes.command("list")
def list_recipes() -> None:
    """The recipes and how many parameters their models have."""
    for name in RECIPES:
        console.print(f"{name:<10} {recipe(name).name:<18} {recipe(name).model.num_parameters / 1e6:>10,.1f}M parameters")


@recipes.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")], sets: Sets = []) -> None:  # noqa: B006
    """Every field of a recipe, as JSON."""
    console.print_json(json.dumps(chosen_recipe(name, sets).model_dump(mode="json")))


@app.command()
def artifacts(kind: str = "", at: Places = []) -> None:  # noqa: B006
    """What is in the store, the oldest first."""
    if kind and kind not in get_args(Kind):
        raise ConfigError(
            f"there is no kind {kind!r}", expected=f"one of {', '.join(get_args(Kind))}", do="choose one of these"
        )
    for one in chosen_execution(at).open_store().all():
        if kind in ("", one.kind):
            console.print(f"{one.provenance.get('created_at')}  {one.digest[:12]}  {one.label}", soft_wrap=True)


@app.command()
def why(label: Annotated[str, typer.Argument(help="kind/name-recipe, as printed by a run.")], at: Places = []) -> None:  # noqa: B006
    """The fields in which an artifact's recipe differs from its nearest sibling's: why it was made anew."""
    store = chosen_execution(at).open_store()
    answer = store.why(store.load(label))
    if answer is None:
        console.print("It is the only one of its kind and name: nothing to compare with.")
        return
    sibling, differences = answer
    console.print(f"differs from {sibling.label} of {sibling.provenance.get('created_at')} in:")
    for one in differences:
        console.print(f"  {one.field}: {one.before!r} -> {one.after!r}", soft_wrap=True, markup=False)


@app.command()
def lineage(label: Annotated[str, typer.Argument(help="kind/name-recipe, as printed by a run.")], at: Places = []) -> None:  # noqa: B006
    """What an artifact was made from, down to the raw corpora."""
    store = chosen_execution(at).open_store()
    for one in store.lineage(store.load(label)):
        inputs = ", ".join(f"{parent.role} {parent.kind}/{parent.name} {parent.digest[:12]}" for parent in one.parents)
        console.print(f"{one.digest[:12]}  {one.label}  <-  {inputs}", soft_wrap=True, markup=False)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="checkpoint/NAME-RECIPE, as a run prints it, or a checkpoint's folder.")],
    folder: Annotated[Path, typer.Argument(help="Where to: a folder that does not exist yet.")],
    layout: Annotated[Layout, typer.Option("--format", help="Whose class of transformers loads it.")] = Layout.codegen,
    dtype: Annotated[Dtype, typer.Option(help="How weights are stored.")] = Dtype.fp32,
    at: Places = [],  # noqa: B006
) -> None:
    """A checkpoint as a plain Hugging Face folder, its logits compared with those of transformers first."""
    execution = chosen_execution(at)
    from flows.exporting import export as export_checkpoint

    console.print(export_checkpoint(execution, checkpoint, folder, layout=layout, dtype=dtype), soft_wrap=True, markup=False)


@app.command()
def doctor(at: Places = []) -> None:  # noqa: B006
    """What this machine has and lacks, what it costs to go without, and how to get it."""
    from flows.doctor import examine

    execution = chosen_execution(at)
    if not examine(execution, console):
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: Annotated[str, typer.Option("--recipe", "--model", "-r", help=f"One of {', '.join(RECIPES)}.")] = "starter",
    gpus: Annotated[int, typer.Option(help="Devices, those that share a copy of the model included.")] = 1,
    gpu: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}, the last for cores.")] = "h100",
    micro_batch: Annotated[int, typer.Option(help="Sequences per device and forward pass.")] = 1,
    zero_stage: Annotated[int | None, typer.Option(help="0 to 3. None: all are compared.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16 or fp32. None: bf16, fp32 on cpu.")] = None,
    checkpoint_activations: Annotated[bool, typer.Option("--checkpoint-activations", help="Compute blocks again.")] = False,
    offload: Annotated[str, typer.Option(help="To the host's memory: none, optimizer, or all (ZeRO 3).")] = "none",
    tensor_parallel: Annotated[int, typer.Option(help="Devices that share the heads of a copy (ZeRO 1, 2).")] = 1,
    sequence_parallel: Annotated[int, typer.Option(help="Devices that share the positions of a sequence.")] = 1,
    price: Annotated[float | None, typer.Option(help="Of one device for an hour.")] = None,
    mfu: Annotated[float | None, typer.Option(help="Share of the peak that is reached. None: an assumption.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    sets: Sets = [],  # noqa: B006
) -> None:
    """What training takes, before it starts: memory by ZeRO stage, tokens, FLOPs, hours, disk, cost."""
    chosen = chosen_recipe(recipe, sets)
    from components.training.setting import Setting
    from flows import plan as planning

    device, asked = device_of(gpu), planning.recipe_options(recipe, sets)
    setting = Setting.parse(
        {
            "num_processes": gpus,
            "micro_batch": micro_batch,
            "tensor_parallel": tensor_parallel,
            "sequence_parallel": sequence_parallel,
            "zero_stage": (2 if tensor_parallel > 1 else 3) if zero_stage is None else zero_stage,
            "precision": precision or ("fp32" if gpu == "cpu" else "bf16"),
            "checkpoint_activations": checkpoint_activations,
            "offload": offload,
        }
    )
    made = planning.plan(chosen, setting, device, zero_stage=zero_stage, mfu=mfu, price=price, asked=asked)
    if as_json:
        typer.echo(made.model_dump_json())
    else:
        planning.show(made, chosen, console, asked=asked)


@app.command()
def deepspeed(
    recipe: RecipeName = "starter",
    stage: Annotated[str, typer.Option(help="nl, multi or mono.")] = "nl",
    sets: Sets = [],  # noqa: B006
    at: Places = [],  # noqa: B006
) -> None:
    """The configuration that a stage passes to DeepSpeed, as JSON."""
    chosen, execution = chosen_recipe(recipe, sets), chosen_execution(at)
    from flows.plan import deepspeed as configuration

    typer.echo(json.dumps(configuration(chosen, execution.training, stage), indent=2))


@app.command()
def ui(prefect_port: int = 4200, mlflow_port: int = 5000, at: Places = []) -> None:  # noqa: B006
    """Prefect and MLflow on loopback, over what was run."""
    from flows.ui import look

    look(chosen_execution(at), prefect_port=prefect_port, mlflow_port=mlflow_port, console=console)


@app.command()
def serve(
    recipe: RecipeName = "starter",
    cron: Annotated[list[str], typer.Option(help='Switch a schedule on: --cron "pipeline=0 1 * * 6".')] = [],  # noqa: B006
    timezone: Annotated[str, typer.Option(help="Of the schedules.")] = "UTC",
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
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


def main() -> None:
    """The entry point: run a command, and say in three lines what a person can mend."""
    interrupted: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # What nohup asked to be left alone.
            signal.signal(number, interrupt)
    errors = Console(stderr=True, highlight=False)
    try:
        app()
    except CodegenError as error:
        errors.print(f"[red]✗[/red] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(1)
    except BaseException as end:
        # `codegen ui` ends well when it is interrupted; everything else was cut off.
        if interrupted and not (isinstance(end, SystemExit) and not end.code):
            with contextlib.suppress(OSError):  # The terminal may be what went away.
                errors.print("interrupted; the same command goes on from here", soft_wrap=True)
            _end(128 + interrupted[0])
        raise


def _end(status: int) -> NoReturn:
    """Leave at once, with nothing left behind.

    At an ordinary exit Prefect waits, without end, to send its last events to its server, which the same signal ended.
    """
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    os._exit(status)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
