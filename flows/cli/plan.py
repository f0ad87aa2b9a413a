"""`codegen plan, deepspeed`: estimates a training before it starts, and prints its DeepSpeed
config.

The arithmetic is in `flows.steps.run_plan`, the tables are in `plan_tables`; this module has the
error with layouts that fit.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    RECIPE_HELP,
    Stage,
    command,
    complete_from,
    device_names,
    load_execution,
    load_recipe,
    print_json,
    recipe_names,
)
from flows.cli.plan_tables import MEMORY_COLUMNS, format_size, print_plan

if TYPE_CHECKING:
    from components.training.config import ParallelLayout, TrainingExecution
    from components.training.planning.devices import Device
    from components.training.planning.memory import MemoryEstimate
    from components.training.planning.planner import Plan, PlanRow
    from flows.settings.execution import Execution
    from flows.settings.recipes import Recipe
    from flows.steps.epochs import StageEpochs


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
    gpus_per_host: Annotated[
        int, typer.Option(min=1, help="Devices of a host, for host memory and sampling.")
    ] = 8,
    price: Annotated[float | None, typer.Option(help="Price per GPU-hour.")] = None,
    mfu: Annotated[
        float | None,
        typer.Option(help="Model FLOPs utilization, 0 to 1. Default: the value of the device."),
    ] = None,
) -> None:
    """Estimate memory, hours, epochs, disk and cost of a run before it starts."""
    recipe = load_recipe(name, recipe_overrides, recipe_sources)
    epochs = _plan_epochs(recipe, tokens, execution_overrides)
    from components.training.config import ParallelLayout, allowed_zero_stages, offload_fields
    from components.training.planning.devices import find_device
    from flows.steps.run_plan import make_run_plan

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
    result = make_run_plan(
        recipe,
        layouts,
        device,
        devices_per_host=gpus_per_host,
        corpora_tokens={row.corpus: row.tokens.value for row in epochs},
        mfu=mfu,
        price=price,
    )
    options = " ".join(
        [
            f"-r {name}",
            *(f"--sources {shlex.quote(text)}" for text in recipe_sources),
            *(f"--set {shlex.quote(text)}" for text in recipe_overrides),
        ]
    )
    if not result.training.best.fits:
        plan_options = f"{options} --tokens {tokens}" if tokens else options
        raise _does_not_fit(recipe, result.training, plan_options)
    if as_json:
        print_json({**result.model_dump(), "epochs": epochs})
    else:
        print_plan(result, recipe, options, gpus_per_host, epochs)


def _plan_epochs(recipe: Recipe, tokens: str, execution_overrides: list[str]) -> list[StageEpochs]:
    """Return the epochs of the stages whose corpora are known.

    Raises:
        ConfigError: a corpus has no sources, or would be read too often.
        DataError: a source cannot be read.
    """
    from components.core.errors import ConfigError, DataError, EvaluationError
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
    except (ConfigError, DataError, EvaluationError) as error:
        example = ",".join(f"{name}=100e9" for name in recipe.trained_corpora)
        fix = f"{error.fix}; or plan with assumed tokens, e.g. --tokens {example}"
        raise type(error)(error.got, expected=error.expected, fix=fix) from error
    epochs = stage_epochs(recipe, recipe.training.trained, corpus_tokens)
    require_few_epochs(recipe, epochs)
    return epochs


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
        f"{recipe.name} needs {format_size(memory.total_bytes)} on each of {layout.world_size:,} x "
        f"{device.title} with ZeRO {layout.zero_stage} ({_memory_parts(memory)})",
        expected=f"at most {format_size(device.usable_bytes)}, the usable part of "
        f"{format_size(device.memory_bytes)}",
        fix="; or ".join(commands)
        or "choose a device with more memory: no number of these devices is enough",
    )


def _proposal(row: PlanRow, device: Device, options: str) -> str:
    text = (
        f"{_plan_command(row.layout, device, options)} needs {format_size(row.memory.total_bytes)}"
    )
    if row.memory.host_bytes:
        text += f" and {format_size(row.memory.host_bytes)} of host memory per device"
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
    parts = [f"{name} {format_size(getattr(memory, f'{name}_bytes'))}" for name in MEMORY_COLUMNS]
    return ", ".join(parts)
