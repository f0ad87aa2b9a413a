"""Plans the training of a recipe: memory, tokens, FLOPs, hours, disk, cost, and layouts that fit.

Pure arithmetic on the recipe; the share of the device's peak that training reaches (MFU) is an
assumption. torch is not imported. `flows.steps.plan` adds the evaluations.

Not covered: time of checkpoints, data loading and restarts; the network, so hours include no
slow-down by ZeRO 3 or offloading; whether the host has the planned memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product

from pydantic import computed_field

from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.training.config import (
    MIN_ZERO_STAGE,
    ZERO_STAGES,
    ParallelLayout,
    StageConfig,
    TrainingConfig,
    TrainingExecution,
    allowed_zero_stages,
    offload_fields,
)
from components.training.deepspeed_config import (
    accumulation_steps,
    check_model_division,
    num_sequences_per_step,
)
from components.training.planning.devices import Device
from components.training.planning.memory import (
    HostMemory,
    MemoryEstimate,
    checkpoint_bytes,
    host_memory,
    peak_memory,
)

_OFFLOADS = tuple(MIN_ZERO_STAGE)
_S_PER_HOUR = 3600
_FP32_BYTES = 4
_MAX_PROPOSALS = 2
RANKS_PER_HOST = 8
"""Devices of a host, if not given. Assumption: that of NVIDIA's DGX and HGX servers."""
TOKEN_BYTES = 2
"""Of a token in a shard: `TOKEN_DTYPE` of components/dataset/shards.py, which needs numpy."""
_BEST_AND_NEXT_CHECKPOINTS = 2
"""Beside the newest: the best by held-out score, and the checkpoint that is being written."""
_PRINTED_FIELDS = (
    *("world_size", "tensor_parallel", "sequence_parallel", "micro_batch", "device", "precision"),
    *("zero_stage", "offload_optimizer", "offload_parameters", "activation_checkpoint_interval"),
)
_ALWAYS_PRINTED = {"world_size", "micro_batch", "zero_stage"}

StageConfigs = Mapping[str, StageConfig]


class PlanRow(Config):
    """The memory of a layout."""

    layout: ParallelLayout
    memory: MemoryEstimate
    fits: bool
    """The memory fits the device."""


class StagePlan(Config):
    """Time and cost of a stage."""

    name: str
    tokens: int
    flops: float
    """Model FLOPs: forward and backward, without recomputation of activations."""
    hours: float
    """Wall-clock hours on all devices together."""
    cost: float | None
    """In the currency of the price; None without a price."""


class DiskPlan(Config):
    """Disk of a run. Raw corpora, work files of the preparation, evaluations and logs are not
    included."""

    checkpoints_bytes: int
    """Checkpoints inside a stage: the newest, the best, and the next that is being written."""
    results_bytes: int
    """Final checkpoints in the store: fp32 weights, and optimizer state that the next stage
    inherits."""
    registry_bytes: int
    """Copies in MLflow's artifacts: a registered version has all files of its checkpoint."""
    min_corpora_bytes: int
    """Prepared corpora, if every corpus of unknown size is as small as `training.max_epochs`
    allows."""
    max_corpora_bytes: int
    """Prepared corpora, if no token of a corpus of unknown size is read twice."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def total_bytes(self) -> int:
        """All parts, with the larger corpora."""
        parts = (self.checkpoints_bytes, self.results_bytes, self.registry_bytes)
        return sum(parts) + self.max_corpora_bytes


class Plan(Config):
    """The plan of a recipe's training."""

    num_parameters: int
    device: Device
    mfu: float
    mfu_source: str
    price_per_hour: float | None
    """Of a device."""
    rows: ListOrTuple[PlanRow]
    """By ZeRO stage."""
    best: PlanRow
    """The lowest ZeRO stage that fits, because higher stages add communication; if none fits, the
    row with the least memory."""
    stages: ListOrTuple[StagePlan]
    total: StagePlan
    host_memory: HostMemory
    """Of the best row."""
    disk: DiskPlan


def make_plan(
    model: ModelConfig,
    training: TrainingConfig,
    layouts: list[ParallelLayout],
    device: Device,
    *,
    ranks_per_host: int = RANKS_PER_HOST,
    corpora_tokens: Mapping[str, int] | None = None,
    mfu: float | None = None,
    price: float | None = None,
) -> Plan:
    """Plan a recipe's training.

    Args:
        training: its trained stages are planned.
        layouts: layouts to compare that differ in their ZeRO stage, the lowest first.
        ranks_per_host: devices of a host.
        corpora_tokens: training tokens of the corpora that are known.
        mfu: model FLOP/s over the peak; None: the device's default.
        price: price per device and hour.

    Raises:
        ConfigError: the batch does not divide over the devices, or mfu or price is invalid.
    """
    _check_mfu_and_price(mfu, price)
    stages = training.trained
    rows = [_plan_row(model, stages, layout, device) for layout in layouts]
    fitting = [row for row in rows if row.fits]
    best = fitting[0] if fitting else min(rows, key=lambda row: row.memory.total_bytes)
    layout = best.layout
    _check_precision(layout, device)
    reached_mfu = device.mfu if mfu is None else mfu
    flops_per_s = layout.world_size * device.peak_flops[layout.precision] * reached_mfu
    flops_per_token = model.flops_per_token
    if layout.activation_checkpoint_interval:
        flops_per_token += _recomputed_flops(model)

    def plan_stage(name: str, tokens: int) -> StagePlan:
        hours = tokens * flops_per_token / flops_per_s / _S_PER_HOUR
        return StagePlan(
            name=name,
            tokens=tokens,
            flops=float(tokens * model.flops_per_token),
            hours=hours,
            cost=None if price is None else hours * layout.world_size * price,
        )

    tokens = {name: config.steps * config.global_batch_tokens for name, config in stages.items()}
    return Plan(
        num_parameters=model.num_parameters,
        device=device,
        mfu=reached_mfu,
        mfu_source=device.mfu_source if mfu is None else "as given",
        price_per_hour=price,
        rows=tuple(rows),
        best=best,
        stages=tuple(plan_stage(name, count) for name, count in tokens.items()),
        total=plan_stage("all", sum(tokens.values())),
        host_memory=host_memory(
            model, layout, best.memory, ranks_per_host, is_cpu=device.name == "cpu"
        ),
        disk=_plan_disk(model, training, layout, corpora_tokens or {}),
    )


def propose_layouts(
    model: ModelConfig, stages: StageConfigs, requested: ParallelLayout, device: Device
) -> list[PlanRow]:
    """Layouts that fit when `requested` does not, with the fewest devices first.

    For a number of devices, the cheapest layout is proposed: (1) ZeRO 1 or 2, which communicate no
    more than data parallelism (ZeRO section 7.1); (2) smaller micro-batches; (3) ZeRO 3, half as
    much communication again (section 7.2); (4) recomputing activations, about a third more compute;
    (5) offloading. The number of devices is doubled from that of `requested`; a layout with more
    devices is proposed if it is cheaper in these terms.
    """
    proposed: list[PlanRow] = []
    sequences = [num_sequences_per_step(config, model.context_length) for config in stages.values()]
    world_size = requested.world_size
    while all(count % (world_size // requested.ranks_per_replica) == 0 for count in sequences):
        variants = _layout_variants(requested, world_size, sequences)
        rows = [_plan_row(model, stages, layout, device) for layout in variants]
        fitting = [row for row in rows if row.fits]
        if fitting:
            best = min(fitting, key=lambda row: _cost_rank(row.layout))
            if not proposed or _is_cheaper(best.layout, proposed[-1].layout):
                proposed.append(best)
        world_size *= 2
    return proposed[:_MAX_PROPOSALS]


def layout_execution(layout: ParallelLayout, device: Device) -> TrainingExecution:
    """The execution config that runs a layout on a device."""
    values = layout.model_dump(include=set(ParallelLayout.model_fields))
    values["device"] = "cpu" if device.name == "cpu" else "cuda"
    return TrainingExecution.parse(values)


def execution_options(layout: ParallelLayout, device: Device) -> list[str]:
    """`layout_execution` as `--exec` options, without most defaults."""
    defaults = TrainingExecution().model_dump()
    values = layout_execution(layout, device).model_dump()
    return [
        f"--exec training.{name}={values[name]}"
        for name in _PRINTED_FIELDS
        if name in _ALWAYS_PRINTED or values[name] != defaults[name]
    ]


def _check_precision(layout: ParallelLayout, device: Device) -> None:
    if layout.precision not in device.peak_flops:
        raise ConfigError(
            f"precision is {layout.precision}, whose speed on {device.title} is unknown",
            expected=f"one of {', '.join(device.peak_flops)}",
            fix="choose one of these, or another device",
        )


def _plan_row(
    model: ModelConfig, stages: StageConfigs, layout: ParallelLayout, device: Device
) -> PlanRow:
    execution = layout_execution(layout, device)
    check_model_division(model, execution)
    accumulations = {
        accumulation_steps(config, execution, model.context_length) for config in stages.values()
    }
    estimates = [peak_memory(model, layout, accumulation) for accumulation in accumulations]
    memory = max(estimates, key=lambda estimate: estimate.total_bytes)
    return PlanRow(layout=layout, memory=memory, fits=memory.total_bytes <= device.usable_bytes)


def _plan_disk(
    model: ModelConfig,
    training: TrainingConfig,
    layout: ParallelLayout,
    known_tokens: Mapping[str, int],
) -> DiskPlan:
    num_checkpoints = TrainingExecution().keep_last + _BEST_AND_NEXT_CHECKPOINTS
    results_bytes = _results_bytes(model, training.trained)
    corpora_tokens: dict[str, int] = {}
    for name, config in training.trained.items():
        corpus = training.corpus_of(name)
        tokens = config.steps * config.global_batch_tokens
        corpora_tokens[corpus] = max(tokens, corpora_tokens.get(corpus, 0))
    read_tokens = {
        name: tokens for name, tokens in corpora_tokens.items() if name not in known_tokens
    }
    known_bytes = sum(known_tokens.values()) * TOKEN_BYTES
    corpora_bytes = sum(read_tokens.values()) * TOKEN_BYTES
    min_corpora_bytes = known_bytes + math.ceil(corpora_bytes / (training.max_epochs or 1.0))
    corpora_bytes += known_bytes
    return DiskPlan(
        checkpoints_bytes=num_checkpoints * checkpoint_bytes(model, layout),
        results_bytes=results_bytes,
        registry_bytes=results_bytes,
        min_corpora_bytes=min_corpora_bytes,
        max_corpora_bytes=max(corpora_bytes, min_corpora_bytes),
    )


def _results_bytes(model: ModelConfig, stages: StageConfigs) -> int:
    later_stages = list(stages.values())[1:]
    num_inherited = sum(config.optimizer_state == "inherit" for config in later_stages)
    bytes_per_parameter = _FP32_BYTES * len(stages) + 2 * _FP32_BYTES * num_inherited
    return model.num_parameters * bytes_per_parameter


def _layout_variants(
    requested: ParallelLayout, world_size: int, sequences: list[int]
) -> Iterator[ParallelLayout]:
    """Layouts with equal or lower memory than `requested`, on `world_size` devices.

    `sequences`: batch sizes in sequences, which must divide into the micro-batches.
    """
    micro_batch = requested.resolved_micro_batch
    num_replicas = world_size // requested.ranks_per_replica
    micro_batches = [
        size
        for size in range(1, micro_batch + 1)
        if micro_batch % size == 0 and all(count // num_replicas % size == 0 for count in sequences)
    ]
    intervals = (1,) if requested.activation_checkpoint_interval else (0, 1)
    offloads = _OFFLOADS[_OFFLOADS.index(requested.offload) :]
    zero_stages = ZERO_STAGES[requested.zero_stage :]
    for stage, size, interval, offload in product(zero_stages, micro_batches, intervals, offloads):
        if stage in allowed_zero_stages(requested.tensor_parallel, offload):
            yield requested.replace(
                world_size=world_size,
                zero_stage=stage,
                micro_batch=size,
                activation_checkpoint_interval=interval,
                **offload_fields(offload),
            )


def _cost_rank(layout: ParallelLayout) -> tuple[int, ...]:
    """Sort key of the cost of a layout's memory savings, the most expensive first."""
    return (
        _OFFLOADS.index(layout.offload),
        layout.activation_checkpoint_interval,
        int(layout.zero_stage == ZERO_STAGES[-1]),
        -layout.resolved_micro_batch,
        layout.zero_stage,
    )


def _is_cheaper(layout: ParallelLayout, other: ParallelLayout) -> bool:
    """Whether a layout saves memory at a lower cost; ZeRO 1 and 2 cost the same."""
    return _cost_rank(layout)[:-1] < _cost_rank(other)[:-1]


def _recomputed_flops(model: ModelConfig) -> int:
    """Per token: a second forward pass of the blocks, a third of forward and backward."""
    head_flops = 6 * model.padded_vocab_size * model.d_model
    return (model.flops_per_token - head_flops) // 3


def _check_mfu_and_price(mfu: float | None, price: float | None) -> None:
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(
            f"mfu is {mfu}",
            expected="a share of the peak above 0 and up to 1",
            fix="set --mfu 0.4 for 40 %",
        )
    if price is not None and not 0 <= price < math.inf:
        raise ConfigError(
            f"price is {price}",
            expected="a price of 0 or more per device and hour",
            fix="set --price 2.50",
        )
