"""What training a recipe takes, before it starts: memory, tokens, FLOPs, hours, disk, cost, and settings that fit.

Design decision: pure arithmetic on the recipe's own numbers, with one assumption, the share of the device's peak that is
reached (MFU), which is an argument. Memory is `memory`'s, published figures are `devices`'. No torch is imported.

Not covered: the time of checkpoints, evaluation, reading data and restarts; the network, so no slow-down of ZeRO 3 or of
offloading is in the hours; whether the host has the memory that offloading takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product

from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.training.config import StageConfig, StageName, TrainingExecution
from components.training.deepspeed_config import (
    accumulation_steps,
    num_sequences_per_step,
    require_shares,
)
from components.training.planning.devices import Device
from components.training.planning.memory import MemoryEstimate, checkpoint_bytes, peak_memory
from components.training.planning.parallel_layout import (
    LOWEST_STAGE_THAT_OFFLOADS,
    ZERO_STAGES,
    ParallelLayout,
    zero_stages,
)

_OFFLOADS = tuple(LOWEST_STAGE_THAT_OFFLOADS)
_S_PER_HOUR = 3600
_FP32_BYTES = 4
_MOST_PROPOSED = 2


class PlanRow(Config):
    """One setting, what it holds, and whether that fits the device."""

    setting: ParallelLayout
    memory: MemoryEstimate
    fits: bool


class StagePlan(Config):
    """One stage of training."""

    name: str
    tokens: int
    flops: float
    """Of the model: forward and backward, without what activation checkpointing computes again."""
    hours: float
    """On all devices together."""
    cost: float | None
    """In the currency of the price; None without a price."""


class Plan(Config):
    """Everything that `codegen plan` says."""

    num_parameters: int
    device: Device
    mfu: float
    mfu_source: str
    rows: ListOrTuple[PlanRow]
    """By ZeRO stage."""
    best: PlanRow
    """The lowest stage that fits, since each higher one only adds communication; where none fits, what needs the least."""
    stages: ListOrTuple[StagePlan]
    total: StagePlan
    checkpoints_bytes: int
    """Disk for checkpoints inside a stage: those that are kept and one that is being written."""
    results_bytes: int
    """Disk for what the stages leave: weights in fp32, and moments where the next one keeps them."""


def make_plan(
    model: ModelConfig,
    stages: Mapping[StageName, StageConfig],
    settings: list[ParallelLayout],
    device: Device,
    *,
    mfu: float | None = None,
    price: float | None = None,
) -> Plan:
    """The plan of a recipe's training.

    Args:
        stages: those that are trained, in their order; at least one.
        settings: what is compared, equal but for the ZeRO stage, the lowest first; at least one.
        mfu: model FLOPs per second over the peak; None: the device's.
        price: of one device for an hour.

    Raises:
        ConfigError: the batch does not divide over the devices, or mfu or price cannot be.
    """
    _require(
        mfu is None or 0 < mfu <= 1,
        f"mfu is {mfu}",
        "a share of the peak above 0 and up to 1",
        "--mfu 0.4 is 40 %",
    )
    _require(
        price is None or 0 <= price < math.inf,
        f"price is {price}",
        "a price of 0 or more for a device and hour",
        "mend --price",
    )
    rows = [_row(model, stages, setting, device) for setting in settings]
    best = next(
        (row for row in rows if row.fits), min(rows, key=lambda row: row.memory.total_bytes)
    )
    shown = best.setting
    reached = device.mfu if mfu is None else mfu
    rate = shown.world_size * device.peak_flops[shown.precision] * reached
    per_token = model.flops_per_token + (
        _recomputed_flops(model) if shown.checkpoint_activations else 0
    )

    def planned(name: str, tokens: int) -> StagePlan:
        hours = tokens * per_token / rate / _S_PER_HOUR
        cost = None if price is None else hours * shown.world_size * price
        return StagePlan(
            name=name,
            tokens=tokens,
            flops=float(tokens * model.flops_per_token),
            hours=hours,
            cost=cost,
        )

    tokens = {name: config.steps * config.global_batch_tokens for name, config in stages.items()}
    return Plan(
        num_parameters=model.num_parameters,
        device=device,
        mfu=reached,
        mfu_source=device.mfu_source if mfu is None else "as given",
        rows=tuple(rows),
        best=best,
        stages=tuple(planned(name, count) for name, count in tokens.items()),
        total=planned("all", sum(tokens.values())),
        checkpoints_bytes=(TrainingExecution().keep_last + 1) * checkpoint_bytes(model, shown),
        results_bytes=_results_bytes(model, stages),
    )


def proposals(
    model: ModelConfig,
    stages: Mapping[StageName, StageConfig],
    asked: ParallelLayout,
    device: Device,
) -> list[PlanRow]:
    """Settings that fit where `asked` does not: the fewest devices first, and then more that need less of a sacrifice.

    For a number of devices, the cheapest is taken: (1) ZeRO 1 or 2, which send no more than plain data parallelism does
    (ZeRO section 7.1); (2) smaller micro-batches; (3) ZeRO 3, half as much communication again (section 7.2); (4) computing
    activations again, about a third more computing; (5) offloading. Devices are doubled from `asked` on.
    """
    found: list[PlanRow] = []
    sequences = [num_sequences_per_step(config, model.context_length) for config in stages.values()]
    number = asked.world_size
    while not any(one % (number // asked.ranks_per_replica) for one in sequences):
        rows = (_row(model, stages, one, device) for one in _variants(asked, number, sequences))
        best = min(
            (row for row in rows if row.fits), key=lambda row: _cost_rank(row.setting), default=None
        )
        if best and (
            not found or _cost_rank(best.setting)[:-1] < _cost_rank(found[-1].setting)[:-1]
        ):
            found.append(best)
        number *= 2
    return found[:_MOST_PROPOSED]


def place_of(setting: ParallelLayout, device: Device) -> TrainingExecution:
    """The place that makes a run use the setting."""
    return TrainingExecution(
        world_size=setting.world_size,
        tensor_parallel=setting.tensor_parallel,
        sequence_parallel=setting.sequence_parallel,
        micro_batch=setting.micro_batch,
        zero_stage=setting.zero_stage,
        device="cpu" if device.name == "cpu" else "cuda",
        precision=setting.precision,
        activation_checkpoint_interval=int(setting.checkpoint_activations),
        offload_optimizer="none" if setting.offload == "none" else "cpu",
        offload_parameters="cpu" if setting.offload == "all" else "none",
    )


def place_options(setting: ParallelLayout, device: Device) -> list[str]:
    """The same as `--exec` options; what is the default anyway is left out, but for the processes and what they hold."""
    place, usual = place_of(setting, device).model_dump(), TrainingExecution().model_dump()
    said = {"world_size", "micro_batch", "zero_stage"}
    return [
        f"--exec training.{name}={value}"
        for name, value in place.items()
        if name in said or value != usual[name]
    ]


def _row(
    model: ModelConfig,
    stages: Mapping[StageName, StageConfig],
    setting: ParallelLayout,
    device: Device,
) -> PlanRow:
    place = place_of(setting, device)
    require_shares(model, place)
    accumulations = {
        accumulation_steps(config, place, model.context_length) for config in stages.values()
    }
    memory = max(
        (peak_memory(model, setting, one) for one in accumulations), key=lambda one: one.total_bytes
    )
    return PlanRow(setting=setting, memory=memory, fits=memory.total_bytes <= device.usable_bytes)


def _results_bytes(model: ModelConfig, stages: Mapping[StageName, StageConfig]) -> int:
    followed_by = list(stages.values())[1:]
    num_kept = sum(following.optimizer_state == "kept" for following in followed_by)
    return model.num_parameters * (_FP32_BYTES * len(stages) + 2 * _FP32_BYTES * num_kept)


def _variants(asked: ParallelLayout, number: int, sequences: list[int]) -> Iterator[ParallelLayout]:
    """Settings of that many devices that give up as much as `asked` or more; batches of `sequences` divide over them."""
    micro_batches = [
        size
        for size in range(1, asked.micro_batch + 1)
        if asked.micro_batch % size == 0
        and not any(one * asked.ranks_per_replica // number % size for one in sequences)
    ]
    checkpointed = (True,) if asked.checkpoint_activations else (False, True)
    offloads = _OFFLOADS[_OFFLOADS.index(asked.offload) :]
    for stage, micro, checkpoint, offload in product(
        ZERO_STAGES[asked.zero_stage :], micro_batches, checkpointed, offloads
    ):
        if stage in zero_stages(asked.tensor_parallel, offload):
            yield asked.replace(
                world_size=number,
                zero_stage=stage,
                micro_batch=micro,
                checkpoint_activations=checkpoint,
                offload=offload,
            )


def _cost_rank(setting: ParallelLayout) -> tuple[int, ...]:
    """What a setting gives up to need less memory, the dearest first."""
    return (
        _OFFLOADS.index(setting.offload),
        int(setting.checkpoint_activations),
        int(setting.zero_stage == ZERO_STAGES[-1]),
        -setting.micro_batch,
        setting.zero_stage,
    )


def _recomputed_flops(model: ModelConfig) -> int:
    """Per token: one more forward pass of the blocks, a third of forward and backward; the head is not computed again."""
    return (model.flops_per_token - 6 * model.padded_vocab_size * model.d_model) // 3


def _require(holds: bool, got: str, expected: str, fix: str) -> None:
    if not holds:
        raise ConfigError(got, expected=expected, fix=fix)
