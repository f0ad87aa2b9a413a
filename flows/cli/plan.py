"""`codegen plan`: what training a recipe takes, printed before anything starts; a plan that cannot fit is refused.

The arithmetic is `components.training.planning.planner`'s. Here are the words: the tables, the refusal with what would fit instead, and
the command that runs what was planned. Nothing heavy is imported, so it answers at once; but for the probe of DeepSpeed's
configuration (`codegen deepspeed`), which is torch's.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from components.core.errors import ConfigError
from components.training.config import ParallelLayout, TrainingExecution, allowed_zero_stages
from components.training.deepspeed_config import accumulation_steps, deepspeed_config
from components.training.planning.devices import RESERVED_SHARE, Device
from components.training.planning.memory import MemoryEstimate
from components.training.planning.planner import (
    Plan,
    PlanRow,
    execution_options,
    make_plan,
    propose_layouts,
)
from flows.settings.recipes import Recipe

_GB = 1e9
_PARTS = ("weights", "gradients", "optimizer", "activations", "buffers")


def plan(
    recipe: Recipe,
    setting: ParallelLayout,
    device: Device,
    *,
    zero_stage: int | None = None,
    mfu: float | None = None,
    price: float | None = None,
    asked: str,
) -> Plan:
    """The plan of a recipe; `zero_stage` None compares all that the setting allows.

    Args:
        asked: the recipe as the command line names it, for the commands in messages.

    Raises:
        ConfigError: nothing that was asked for fits the device; what would fit is named.
    """
    compared = [setting.replace(zero_stage=one) for one in _allowed(setting, zero_stage)]
    made = make_plan(recipe.model, recipe.training.trained, compared, device, mfu=mfu, price=price)
    if not made.best.fits:
        raise _refusal(recipe, made, asked)
    return made


def print_plan(made: Plan, recipe: Recipe, console: Console, *, asked: str) -> None:
    """Print a plan."""
    one, device, host_bytes = made.best.layout, made.device, made.best.memory.host_bytes
    console.print(
        f"{recipe.name}: {made.num_parameters / 1e9:,.3f}B parameters on {one.world_size:,} x {device.title}, "
        f"{one.precision}, micro-batch {one.micro_batch}, activations {_activations(one)}, offload {one.offload}\n",
        soft_wrap=True,
    )
    table, unit = _memory_table(made)
    console.print(
        f"{unit} on one device at its fullest moment; {_size(device.usable_bytes)} of {_size(device.memory_bytes)} usable, "
        f"{RESERVED_SHARE:.0%} kept back",
        soft_wrap=True,
    )
    console.print(table)
    console.print()
    console.print(_stage_table(made))
    console.print()
    recomputed = (
        ", with one more forward pass of the blocks" if one.activation_checkpoint_interval else ""
    )
    console.print(
        f"Hours at {made.mfu:.0%} of {device.peak_flops[one.precision] / 1e12:,.4g} TFLOP/s ({made.mfu_source}){recomputed}.\n"
        f"Disk for checkpoints: {_size(made.checkpoints_bytes)} inside a stage, {_size(made.results_bytes)} for the weights "
        f"that {_stages(len(made.stages))}.",
        soft_wrap=True,
    )
    if host_bytes:
        console.print(
            f"Offloading takes {_size(host_bytes)} of the host's memory for each device, which is not checked, "
            "and time, which is not in the hours.",
            soft_wrap=True,
        )
    _print_run_command(one, device, asked, console)


def deepspeed(recipe: Recipe, place: TrainingExecution, stage: str) -> dict[str, Any]:
    """What a stage that begins on this place passes to DeepSpeed; where precision is auto, by a probe of this machine.

    Raises:
        ConfigError: no such stage, the batch does not divide over the place, or micro_batch is auto.
    """
    stages = dict(recipe.training.stages)
    if stage not in stages:
        raise ConfigError(
            f"there is no stage {stage!r}",
            expected=f"one of {', '.join(stages)}",
            fix="choose one of these",
        )
    config, context_length = stages[stage], recipe.model.context_length
    accumulation_steps(config, place, context_length)
    precision = place.precision
    if precision == "auto":
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # DeepSpeed logs to what is standard output as it is imported.
            from components.training.hardware import select_device, select_precision
        precision = select_precision(place, select_device(place, local_rank=0))
    return deepspeed_config(
        config, place, context_length, on_gpu=place.uses_gpu, bf16=precision == "bf16"
    )


def _allowed(setting: ParallelLayout, zero_stage: int | None) -> list[int]:
    return (
        [zero_stage]
        if zero_stage is not None
        else allowed_zero_stages(setting.tensor_parallel, setting.offload)
    )


def _memory_table(made: Plan) -> tuple[Table, str]:
    """The table, and the unit of its figures."""
    unit, name = (
        (1e9, "GB") if max(row.memory.total_bytes for row in made.rows) >= _GB else (1e6, "MB")
    )
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("ZeRO", no_wrap=True)
    for part in (*_PARTS, "total"):
        table.add_column(part, justify="right", no_wrap=True)
    table.add_column("moment", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    for row in made.rows:
        numbers = (
            f"{getattr(row.memory, f'{part}_bytes') / unit:,.2f}" for part in (*_PARTS, "total")
        )
        verdict = "no" if not row.fits else "best" if row == made.best else "yes"
        table.add_row(str(row.layout.zero_stage), *numbers, row.memory.phase, verdict)
    return table, name


def _stage_table(made: Plan) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("stage", "tokens", "FLOPs", "hours", "cost"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for one in (*made.stages, made.total):
        cost = "no price" if one.cost is None else f"{one.cost:,.2f}"
        table.add_row(one.name, f"{one.tokens:,}", f"{one.flops:.2e}", f"{one.hours:,.2f}", cost)
    return table


def _print_run_command(
    setting: ParallelLayout, device: Device, asked: str, console: Console
) -> None:
    options = " ".join(execution_options(setting, device))
    console.print(f"\ncodegen run {asked} {options}", soft_wrap=True, markup=False)


def _refusal(recipe: Recipe, made: Plan, asked: str) -> ConfigError:
    one, memory, device = made.best.layout, made.best.memory, made.device
    found = propose_layouts(recipe.model, recipe.training.trained, made.rows[0].layout, device)
    commands = [
        f"{_command(asked, row.layout, device)} needs {_size(row.memory.total_bytes)}{_host(row)}"
        for row in found
    ]
    return ConfigError(
        f"{recipe.name} needs {_size(memory.total_bytes)} on each of {one.world_size:,} x {device.title} "
        f"with ZeRO {one.zero_stage} ({_parts(memory)})",
        expected=f"at most the {_size(device.usable_bytes)} that are usable of {_size(device.memory_bytes)}",
        fix="; or ".join(commands)
        or "take a device with more memory: no number of these fits, whatever is partitioned",
    )


def _command(asked: str, setting: ParallelLayout, device: Device) -> str:
    options = [
        f"--gpus {setting.world_size} --gpu {device.name} --micro-batch {setting.micro_batch}",
        f"--zero-stage {setting.zero_stage} --precision {setting.precision}",
        *([f"--tensor-parallel {setting.tensor_parallel}"] if setting.tensor_parallel > 1 else []),
        *(
            [f"--sequence-parallel {setting.sequence_parallel}"]
            if setting.sequence_parallel > 1
            else []
        ),
        *(["--checkpoint-activations"] if setting.activation_checkpoint_interval else []),
        *([f"--offload {setting.offload}"] if setting.offload != "none" else []),
    ]
    return f"`codegen plan {asked} {' '.join(options)}`"


def recipe_options(name: str, sets: list[str]) -> str:
    """The options that name a recipe, as they can be given again."""
    return " ".join([f"-r {name}", *(f"--set {shlex.quote(one)}" for one in sets)])


def _host(row: PlanRow) -> str:
    return (
        f" and {_size(row.memory.host_bytes)} of the host's memory for each"
        if row.memory.host_bytes
        else ""
    )


def _parts(memory: MemoryEstimate) -> str:
    return ", ".join(f"{name} {_size(getattr(memory, f'{name}_bytes'))}" for name in _PARTS)


def _activations(setting: ParallelLayout) -> str:
    return "computed again" if setting.activation_checkpoint_interval else "kept"


def _stages(number: int) -> str:
    return "one stage leaves" if number == 1 else f"{number} stages leave"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GB:,.1f} GB" if num_bytes >= _GB / 10 else f"{num_bytes / 1e6:,.1f} MB"
