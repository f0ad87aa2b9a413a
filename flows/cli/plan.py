"""`codegen plan, deepspeed`: estimates a training before it starts, and prints its DeepSpeed
config.

The arithmetic is in `components.training.planning`; this module has the tables, the error with
layouts that fit, and the command that runs the plan.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.options import (
    RECIPE_HELP,
    Stage,
    command,
    complete_from,
    console,
    device_names,
    load_execution,
    load_recipe,
    print_json,
    print_line,
    print_sentences,
    print_table,
    print_wide,
    recipe_names,
)

if TYPE_CHECKING:
    from components.training.config import ParallelLayout, TrainingExecution
    from components.training.planning.devices import Device
    from components.training.planning.memory import MemoryEstimate
    from components.training.planning.planner import Plan, PlanRow
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe
    from flows.steps.epochs import StageEpochs

_GB = 1e9
_MIN_HOURS = 0.1
"""Fewer hours are printed with an exponent instead of two decimals."""
_MEMORY_COLUMNS = ("weights", "gradients", "optimizer", "activations", "buffers")


@command()
def plan(
    recipe_overrides: list[str],
    recipe_sources: list[str],
    execution_overrides: list[str],
    as_json: bool,
    *,
    name: Annotated[
        str,
        typer.Option(
            "--recipe",
            "--model",
            "-r",
            help=RECIPE_HELP,
            metavar="NAME",
            autocompletion=complete_from(recipe_names),
        ),
    ] = "starter",
    gpus: Annotated[int, typer.Option(min=1, help="Number of devices in total.")] = 1,
    gpu: Annotated[
        str,
        typer.Option(
            help="Device type, e.g. h100, a100-80 or cpu.",
            autocompletion=complete_from(device_names),
        ),
    ] = "h100",
    micro_batch: Annotated[
        int, typer.Option(min=1, help="Sequences per device and forward pass.")
    ] = 1,
    zero_stage: Annotated[
        int | None,
        typer.Option(min=0, max=3, help="ZeRO stage, 0 to 3. Default: compare all stages."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="bf16, fp16 or fp32. Default: bf16 on GPUs, fp32 on a CPU.")
    ] = None,
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations", help="Recompute activations in the backward pass."
        ),
    ] = False,
    offload: Annotated[
        str, typer.Option(help="Offload to host memory: none, optimizer, or all (ZeRO 3 only).")
    ] = "none",
    tensor_parallel: Annotated[
        int,
        typer.Option(min=1, help="Devices that share the heads of a model copy (ZeRO 1 and 2)."),
    ] = 1,
    sequence_parallel: Annotated[
        int, typer.Option(min=1, help="Devices that share the positions of a sequence.")
    ] = 1,
    tokens: Annotated[
        str,
        typer.Option(
            help="Assumed training tokens of corpora that are not on this machine, e.g. "
            "nl=354e9,multi=119e9.",
            metavar="CORPUS=TOKENS,...",
        ),
    ] = "",
    price: Annotated[float | None, typer.Option(help="Price per GPU-hour.")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(help="Model FLOPs utilization, 0 to 1. Default: the value of the device."),
    ] = None,
) -> None:
    """Estimate memory, hours, disk and cost of a training before it starts."""
    recipe = load_recipe(name, recipe_overrides, recipe_sources)
    epochs = _plan_epochs(recipe, tokens, execution_overrides)
    from components.training.config import ParallelLayout, allowed_zero_stages, offload_fields
    from components.training.planning.devices import find_device
    from components.training.planning.planner import make_plan

    device = find_device(gpu)
    default_zero_stage = 2 if tensor_parallel > 1 else 3
    layout = ParallelLayout.parse(
        {
            "world_size": gpus,
            "micro_batch": micro_batch,
            "tensor_parallel": tensor_parallel,
            "sequence_parallel": sequence_parallel,
            "zero_stage": default_zero_stage if zero_stage is None else zero_stage,
            "precision": precision or ("fp32" if gpu == "cpu" else "bf16"),
            "activation_checkpoint_interval": int(checkpoint_activations),
            **offload_fields(offload),
        }
    )
    stages = [zero_stage]
    if zero_stage is None:
        stages = [*allowed_zero_stages(layout.tensor_parallel, layout.offload)]
    layouts = [layout.replace(zero_stage=stage) for stage in stages]
    result = make_plan(recipe.model, recipe.training.trained, layouts, device, mfu=mfu, price=price)
    options = " ".join(
        [
            f"-r {name}",
            *(f"--sources {shlex.quote(text)}" for text in recipe_sources),
            *(f"--set {shlex.quote(text)}" for text in recipe_overrides),
        ]
    )
    if not result.best.fits:
        plan_options = f"{options} --tokens {tokens}" if tokens else options
        raise _does_not_fit(recipe, result, plan_options)
    if as_json:
        print_json({**dict(result), "epochs": epochs})
        return
    print_plan(result, recipe, options, price, epochs)


def _plan_epochs(recipe: Recipe, tokens: str, execution_overrides: list[str]) -> list[StageEpochs]:
    """Return the epochs of the stages whose corpora are known.

    Raises:
        ConfigError: a corpus has no sources, or would be read too often.
        DataError: a source cannot be read.
    """
    from components.core.errors import ConfigError, DataError
    from flows.settings.execution import execution_from_environment
    from flows.steps.epochs import (
        find_tokens,
        parse_tokens,
        require_few_epochs,
        stage_epochs,
        stages_to_estimate,
    )

    corpus_tokens = parse_tokens(tokens, recipe)
    execution = execution_from_environment(execution_overrides)
    try:
        if stages := stages_to_estimate(recipe, execution, corpus_tokens):
            execution = load_execution(execution_overrides)
            corpus_tokens = find_tokens(recipe, execution, stages) | corpus_tokens
    except (ConfigError, DataError) as error:
        example = ",".join(f"{name}=100e9" for name in recipe.trained_corpora)
        fix = f"{error.fix}; or plan with assumed tokens, e.g. --tokens {example}"
        raise type(error)(error.got, expected=error.expected, fix=fix) from error
    epochs = stage_epochs(recipe, recipe.training.trained, corpus_tokens)
    require_few_epochs(recipe, epochs)
    return epochs


def _print_epochs(recipe: Recipe, epochs: list[StageEpochs]) -> None:
    from flows.steps.epochs import describe_tokens, format_number

    rows = []
    for row in epochs:
        number = format_number(row.epochs)
        rows.append((row.stage, row.corpus, number, describe_tokens(row.tokens)))
    stages = [row.stage for row in epochs]
    for stage in recipe.training.trained:
        if stage not in stages:
            corpus = recipe.training.corpus_of(stage)
            pull = f"codegen data pull --preset {recipe.data.preset}"
            rows.append((stage, corpus, "unknown", f"run `{pull}` first"))
    print_table(["stage", "corpus", "epochs", "corpus size"], rows)
    if any(row.tokens.origin == "assumed" for row in epochs):
        print_sentences("Assumed tokens are not checked: a run needs the sources of these corpora.")


@command()
def deepspeed(recipe: Recipe, execution: Execution, *, stage: Stage = "nl") -> None:
    """Print the DeepSpeed configuration of a stage as JSON."""
    print_json(stage_deepspeed_config(recipe, execution.training, stage))


def stage_deepspeed_config(
    recipe: Recipe, execution: TrainingExecution, stage: str
) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a stage; precision `auto` probes this machine.

    Raises:
        ConfigError: the stage does not exist, the batch is not divisible among the processes, or
            micro_batch is auto.
    """
    from components.core.errors import ConfigError
    from components.training.deepspeed_config import accumulation_steps, deepspeed_config

    stages = recipe.training.stages
    if stage not in stages:
        raise ConfigError(
            f"there is no stage {stage!r}",
            expected=f"one of {', '.join(stages)}",
            fix="choose one of these stages",
        )
    config = stages[stage]
    context_length = recipe.model.context_length
    accumulation_steps(config, execution, context_length)
    precision = execution.precision
    if precision == "auto":
        with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed logs to stdout at import.
            from components.training.hardware import select_device, select_precision
        precision = select_precision(execution, select_device(execution, local_rank=0))
    return deepspeed_config(
        config,
        execution,
        context_length,
        on_gpu=execution.uses_gpu,
        precision=precision,
    )


def print_plan(
    plan: Plan, recipe: Recipe, options: str, price: float | None, epochs: list[StageEpochs]
) -> None:
    """Print a plan and the command that runs it.

    Args:
        plan: the plan.
        recipe: its recipe.
        options: the command line options that select the recipe.
        price: the price per GPU-hour, if given.
        epochs: of the stages whose corpora are known.
    """
    from components.training.planning.devices import RESERVED_SHARE
    from components.training.planning.planner import execution_options

    layout = plan.best.layout
    device = plan.device

    activations = "recomputed" if layout.activation_checkpoint_interval else "stored"
    print_sentences(
        f"{recipe.name}: {plan.num_parameters / 1e9:,.3f}B parameters on {layout.world_size:,} x "
        f"{device.title}, {layout.precision}, micro-batch {layout.micro_batch}, "
        f"activations {activations}, offload {layout.offload}\n"
    )
    table, unit = _memory_table(plan)
    print_sentences(
        f"Peak memory per device in {unit}; {_size(device.usable_bytes)} of "
        f"{_size(device.memory_bytes)} usable, {RESERVED_SHARE:.0%} reserved"
    )
    print_wide(table)
    print_sentences(
        "Each row is the phase with the highest memory. No activations are stored in the reduction "
        "of gradients and in the step of the optimizer."
    )
    console.print()
    print_wide(_stage_table(plan))
    console.print()
    _print_epochs(recipe, epochs)
    console.print()
    recomputation = ""
    if layout.activation_checkpoint_interval:
        recomputation = ", plus a second forward pass of the blocks"
    num_stages = len(plan.stages)
    cost_note = "Costs: add --price, the price per GPU-hour."
    if price is not None:
        cost_note = f"Costs are in the currency of --price, {price:g} per GPU-hour."
    print_sentences(
        f"Hours at {plan.mfu:.0%} of {device.peak_flops[layout.precision] / 1e12:,.4g} TFLOP/s "
        f"({plan.mfu_source}){recomputation}. {cost_note}\n"
        f"Disk for checkpoints: {_size(plan.checkpoints_bytes)} during a stage, "
        f"{_size(plan.results_bytes)} for the final weights of "
        f"{num_stages} stage{'s' if num_stages > 1 else ''}."
    )
    if host_bytes := plan.best.memory.host_bytes:
        print_sentences(
            f"Offloading needs {_size(host_bytes)} of host memory per device, which is not "
            "checked, and time, which the hours do not include."
        )
    run_options = " ".join([options, *execution_options(layout, device)])
    print_line(f"\nRun it with:\ncodegen run {run_options}")


def _memory_table(plan: Plan) -> tuple[Table, str]:
    """Return the table, and the unit of its numbers."""
    num_bytes, unit = 1e6, "MB"
    if max(row.memory.total_bytes for row in plan.rows) >= _GB:
        num_bytes, unit = _GB, "GB"
    columns = (*_MEMORY_COLUMNS, "total")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("ZeRO", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    for row in plan.rows:
        numbers = [f"{getattr(row.memory, f'{name}_bytes') / num_bytes:,.2f}" for name in columns]
        fits = "yes" if row.fits else "no"
        if row.fits and row == plan.best:
            fits = "best"
        table.add_row(str(row.layout.zero_stage), *numbers, row.memory.phase, fits)
    return table, unit


def _stage_table(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    has_price = plan.total.cost is not None
    for name in ("stage", "tokens", "FLOPs", "hours", *(["cost"] if has_price else [])):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for stage in (*plan.stages, plan.total):
        hours = f"{stage.hours:,.2f}" if stage.hours >= _MIN_HOURS else f"{stage.hours:.1e}"
        cost = "" if stage.cost is None else f"{stage.cost:,.2f}"
        table.add_row(
            stage.name,
            f"{stage.tokens:,}",
            f"{stage.flops:.2e}",
            hours,
            *([cost] if has_price else []),
        )
    return table


def _does_not_fit(recipe: Recipe, plan: Plan, options: str) -> Exception:
    """Return the error of a plan that does not fit the device; it proposes plans that fit."""
    from components.core.errors import ConfigError
    from components.training.planning.planner import propose_layouts

    device = plan.device
    layout = plan.best.layout
    memory = plan.best.memory
    rows = propose_layouts(recipe.model, recipe.training.trained, plan.rows[0].layout, device)
    commands = [_proposal(row, device, options) for row in rows]
    return ConfigError(
        f"{recipe.name} needs {_size(memory.total_bytes)} on each of {layout.world_size:,} x "
        f"{device.title} with ZeRO {layout.zero_stage} ({_memory_parts(memory)})",
        expected=f"at most {_size(device.usable_bytes)}, the usable part of "
        f"{_size(device.memory_bytes)}",
        fix="; or ".join(commands)
        or "choose a device with more memory: no number of these devices is enough",
    )


def _proposal(row: PlanRow, device: Device, options: str) -> str:
    text = f"{_plan_command(row.layout, device, options)} needs {_size(row.memory.total_bytes)}"
    if row.memory.host_bytes:
        text += f" and {_size(row.memory.host_bytes)} of host memory per device"
    return text


def _plan_command(layout: ParallelLayout, device: Device, options: str) -> str:
    words = [
        f"codegen plan {options} --gpus {layout.world_size} --gpu {device.name}",
        f"--micro-batch {layout.micro_batch} --zero-stage {layout.zero_stage}",
        f"--precision {layout.precision}",
    ]
    if layout.tensor_parallel > 1:
        words.append(f"--tensor-parallel {layout.tensor_parallel}")
    if layout.sequence_parallel > 1:
        words.append(f"--sequence-parallel {layout.sequence_parallel}")
    if layout.activation_checkpoint_interval:
        words.append("--checkpoint-activations")
    if layout.offload != "none":
        words.append(f"--offload {layout.offload}")
    return f"`{' '.join(words)}`"


def _memory_parts(memory: MemoryEstimate) -> str:
    parts = [f"{name} {_size(getattr(memory, f'{name}_bytes'))}" for name in _MEMORY_COLUMNS]
    return ", ".join(parts)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GB:,.1f} GB" if num_bytes >= _GB / 10 else f"{num_bytes / 1e6:,.1f} MB"
