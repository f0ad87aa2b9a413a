"""The output of `codegen plan`: tables of memory, time and disk, and the command that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from flows.cli.options import (
    console,
    print_line,
    print_sentences,
    print_table,
    print_wide,
)

if TYPE_CHECKING:
    from components.training.planning.planner import Plan
    from flows.settings.recipes import Recipe
    from flows.steps.epochs import StageEpochs
    from flows.steps.run_plan import RunPlan

_GB = 1e9
_MIN_HOURS = 0.1
"""Fewer hours are printed with an exponent instead of two decimals."""
MEMORY_COLUMNS = ("weights", "gradients", "optimizer", "activations", "buffers")


def print_plan(
    result: RunPlan,
    recipe: Recipe,
    options: str,
    devices_per_host: int,
    epochs: list[StageEpochs],
) -> None:
    """Print a plan and the command that runs it.

    Args:
        result: the plan.
        recipe: its recipe.
        options: the command line options that select the recipe.
        devices_per_host: devices of a host.
        epochs: of the stages whose corpora are known.
    """
    from components.training.planning.devices import RESERVED_SHARE
    from components.training.planning.planner import execution_options

    plan = result.training
    layout = plan.best.layout
    device = plan.device

    activations = "recomputed" if layout.activation_checkpoint_interval else "stored"
    print_sentences(
        f"{recipe.name}: {_format_count(plan.num_parameters)} parameters on "
        f"{layout.world_size:,} x {device.title}, {layout.precision}, "
        f"micro-batch {layout.micro_batch}, "
        f"activations {activations}, offload {layout.offload}\n"
    )
    table, unit = _memory_table(plan)
    print_sentences(
        f"Peak memory per device in {unit}; {format_size(device.usable_bytes)} of "
        f"{format_size(device.memory_bytes)} usable, {RESERVED_SHARE:.0%} reserved"
    )
    print_wide(table)
    print_sentences(
        "Each row is the phase with the highest memory. No activations are stored in the reduction "
        "of gradients and in the step of the optimizer."
    )
    for time_table in (_stage_table(plan), _evaluation_table(result), _total_table(result)):
        console.print()
        print_wide(time_table)
    console.print()
    _print_epochs(recipe, epochs)
    console.print()
    _print_time_notes(plan, devices_per_host)
    for table in (_host_table(plan, devices_per_host), _disk_table(plan)):
        console.print()
        print_wide(table)
    print_sentences(
        "Not included: raw corpora and their preparation (`codegen data estimate`), evaluations, "
        "logs."
    )
    if plan.best.memory.host_bytes:
        print_sentences(
            "Offloading also needs time, which the hours do not include. Host memory is not "
            "checked."
        )
    run_options = " ".join([options, *execution_options(layout, device)])
    print_line(f"\nRun it with:\ncodegen run {run_options}")


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


def _print_time_notes(plan: Plan, devices_per_host: int) -> None:
    layout, device = plan.best.layout, plan.device
    recomputation = ""
    if layout.activation_checkpoint_interval:
        recomputation = ", plus a second forward pass of the blocks"
    cost_note = "Costs: add --price, the price per GPU-hour."
    if plan.price_per_hour is not None:
        cost_note = (
            f"Costs are in the currency of --price, {plan.price_per_hour:g} per GPU-hour, for all "
            "devices, also while only a part of them evaluates."
        )
    num_devices = min(layout.world_size, devices_per_host)
    print_sentences(
        f"Training: {plan.mfu:.0%} of {device.peak_flops[layout.precision] / 1e12:,.4g} TFLOP/s "
        f"({plan.mfu_source}){recomputation}. Evaluation: completions of full length, limited by "
        f"memory bandwidth (an assumption), on {num_devices:,} "
        f"device{'s' if num_devices > 1 else ''} of a host. {cost_note}"
    )


def _memory_table(plan: Plan) -> tuple[Table, str]:
    """Return the table, and the unit of its numbers."""
    num_bytes, unit = 1e6, "MB"
    if max(row.memory.total_bytes for row in plan.rows) >= _GB:
        num_bytes, unit = _GB, "GB"
    columns = (*MEMORY_COLUMNS, "total")
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
    has_price = plan.total.cost is not None
    table = _number_table(["stage", "tokens", "FLOPs", "hours", *(["cost"] if has_price else [])])
    for stage in (*plan.stages, plan.total):
        table.add_row(
            stage.name,
            f"{stage.tokens:,}",
            f"{stage.flops:.2e}",
            *_time_cells(stage.hours, stage.cost),
        )
    return table


def _evaluation_table(result: RunPlan) -> Table:
    """Return the evaluations of a checkpoint, and of all checkpoints together."""
    columns = ["evaluation of a stage", "samples", "tokens", "hours"]
    if result.cost is not None:
        columns.append("cost")
    table = _number_table(columns)
    total = result.evaluation.replace(name=f"{len(result.training.stages)} stages")
    for plan in (*result.evaluations, total):
        num_samples = "" if plan.num_samples is None else f"{plan.num_samples:,}"
        cells = _time_cells(plan.hours, plan.cost)
        table.add_row(plan.name, num_samples, f"{plan.num_tokens:,}", *cells)
    return table


def _total_table(result: RunPlan) -> Table:
    columns = ["total", "hours", *([] if result.cost is None else ["cost"])]
    table = _number_table(columns)
    table.add_row("training and evaluation", *_time_cells(result.hours, result.cost))
    return table


def _host_table(plan: Plan, devices_per_host: int) -> Table:
    num_ranks = min(devices_per_host, plan.best.layout.world_size)
    memory = plan.host_memory
    table = _number_table(
        [f"memory of the host of rank 0, {num_ranks} rank{'s' if num_ranks > 1 else ''}", "size"]
    )
    table.add_row("building the model", format_size(memory.build_bytes))
    table.add_row("training", format_size(memory.training_bytes))
    table.add_row("gathering the final weights", format_size(memory.gather_bytes))
    table.add_row("sampling", format_size(memory.sampling_bytes))
    return table


def _disk_table(plan: Plan) -> Table:
    disk = plan.disk
    corpora = format_size(disk.max_corpora_bytes)
    if disk.min_corpora_bytes < disk.max_corpora_bytes:
        corpora = f"{format_size(disk.min_corpora_bytes)} to {corpora}"
    table = _number_table(["disk", "size"])
    table.add_row("checkpoints during a stage", format_size(disk.checkpoints_bytes))
    table.add_row("final checkpoints in the store", format_size(disk.results_bytes))
    table.add_row("copies of registered versions", format_size(disk.registry_bytes))
    table.add_row("prepared corpora", corpora)
    table.add_row("all, at most", format_size(disk.total_bytes))
    return table


def _number_table(columns: list[str]) -> Table:
    """Return a table with names in the first column, and numbers in the others."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def _time_cells(hours: float, cost: float | None) -> list[str]:
    cells = [f"{hours:,.2f}" if hours >= _MIN_HOURS else f"{hours:.1e}"]
    return cells if cost is None else [*cells, f"{cost:,.2f}"]


def _format_count(number: int) -> str:
    """Return, for example, `16.032B`, `355.7M` or `0.1M`."""
    return f"{number / 1e9:,.3f}B" if number >= 1e9 else f"{number / 1e6:,.1f}M"


def format_size(num_bytes: int) -> str:
    """Return a size in decimal GB or MB."""
    return f"{num_bytes / _GB:,.1f} GB" if num_bytes >= _GB / 10 else f"{num_bytes / 1e6:,.1f} MB"
