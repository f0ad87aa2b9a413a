"""Plans: values computed by hand, proposals that fit, and invalid arguments."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.model.huggingface.checkpoint_writer import MAX_SHARD_BYTES
from components.model.weights import CHUNK_VALUES
from components.training.config import (
    ZERO_STAGES,
    ParallelLayout,
    TrainingExecution,
    allowed_zero_stages,
)
from components.training.planning.devices import DEVICES, Device, find_device
from components.training.planning.memory import BUILD_BUFFER_BYTES, WEIGHT_FILE_BYTES
from components.training.planning.planner import (
    Plan,
    PlanRow,
    execution_options,
    make_plan,
    propose_layouts,
)
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, recipe

A100, H100, L40S, CPU = (find_device(name) for name in ("a100-80", "h100", "l40s", "cpu"))
FLOPS_PER_TOKEN_350M = 2_076_180_480
"""6 (20 * 12 * 1024^2 + 51,200 * 1024) + 6 * 20 * 1024 * 2048."""
RECOMPUTED_350M = 587_202_560
"""A third of that without the head's 6 * 51,200 * 1024."""
PARAMETERS_350M = 356_712_448
"""20 (12 * 1024^2 + 7 * 1024) + 2 * 51,200 * 1024 + 51,200 + 2 * 1024."""
NL_TOKENS_350M = 350_000 * 524_288


def plan_recipe(
    target: Recipe, layouts: list[ParallelLayout], device: Device, **options: float
) -> Plan:
    return make_plan(target.model, target.training, layouts, device, **options)


def propose(target: Recipe, requested: ParallelLayout, device: Device) -> list[PlanRow]:
    return propose_layouts(target.model, target.training.trained, requested, device)


@pytest.mark.parametrize(
    ("interval", "flops_per_token"),
    [(0, FLOPS_PER_TOKEN_350M), (1, FLOPS_PER_TOKEN_350M + RECOMPUTED_350M)],
    ids=["saved", "recomputed"],
)
def test_hours_and_cost_equal_values_computed_by_hand(interval: int, flops_per_token: int) -> None:
    target = recipe("350m")
    layout = ParallelLayout(
        world_size=8, zero_stage=1, precision="bf16", activation_checkpoint_interval=interval
    )
    plan = plan_recipe(target, [layout], A100, mfu=0.5, price=1.5)
    nl, multi, mono = plan.stages
    assert (nl.name, multi.name, mono.name) == ("nl", "multi", "mono")
    assert (nl.tokens, multi.tokens, mono.tokens) == (
        NL_TOKENS_350M,
        150_000 * 524_288,
        150_000 * 524_288,
    )
    assert nl.flops == NL_TOKENS_350M * FLOPS_PER_TOKEN_350M, "of the model, without recomputation"
    hours = NL_TOKENS_350M * flops_per_token / (8 * 312e12 * 0.5) / 3600
    assert nl.hours == pytest.approx(hours)
    assert nl.cost == pytest.approx(hours * 8 * 1.5)
    assert plan.total.tokens == 650_000 * 524_288
    assert plan.total.hours == pytest.approx(hours * 650 / 350)
    assert plan.mfu_source == "as given"


def test_disk_equals_values_computed_by_hand() -> None:
    """Two new checkpoints, the best and the next, of 14 bytes a parameter; three results of 4 bytes
    in the store and in the registry; two bytes a token, which may be read four times."""
    target = recipe("350m")
    plan = plan_recipe(target, [ParallelLayout(precision="bf16")], H100)
    assert plan.num_parameters == PARAMETERS_350M
    assert plan.disk.checkpoints_bytes == 4 * 14 * PARAMETERS_350M
    assert plan.disk.results_bytes == 3 * 4 * PARAMETERS_350M
    assert plan.disk.registry_bytes == 3 * 4 * PARAMETERS_350M
    assert plan.disk.max_corpora_bytes == 2 * 650_000 * 524_288
    assert plan.disk.min_corpora_bytes == 2 * 650_000 * 524_288 // 4
    assert plan.disk.total_bytes == (56 + 12 + 12) * PARAMETERS_350M + 1_300_000 * 524_288


def test_a_corpus_of_two_stages_is_counted_once() -> None:
    target = recipe("350m").override(["training.stages.mono.corpus=multi", "training.max_epochs=1"])
    disk = plan_recipe(target, [ParallelLayout(precision="bf16")], H100).disk
    assert disk.max_corpora_bytes == disk.min_corpora_bytes == 2 * 500_000 * 524_288


@pytest.mark.parametrize(
    ("name", "num_parameters", "world_size", "optimizer_share"),
    [("350m", PARAMETERS_350M, 4, 1), ("16b", 16_032_155_648, 64, 8)],
)
def test_host_memory_equals_values_computed_by_hand(
    name: str, num_parameters: int, world_size: int, optimizer_share: int
) -> None:
    """Every rank has half a gigabyte of libraries. A checkpoint is copied: 2 bytes a weight on rank
    0, and the ranks' shares of 12 bytes of optimizer state."""
    layout = ParallelLayout(world_size=world_size, zero_stage=2, precision="bf16")
    memory = plan_recipe(recipe(name), [layout], H100).host_memory
    num_ranks = min(8, world_size)
    libraries = num_ranks * 500_000_000
    assert memory.build_bytes == libraries + num_ranks * 4_194_304
    assert memory.gather_bytes == libraries + min(4 * num_parameters, 5_000_000_000)
    assert memory.sampling_bytes == libraries + num_ranks * 4_194_304
    copied = 2 * num_parameters + 12 * num_parameters // optimizer_share
    assert memory.training_bytes == libraries + copied
    assert memory.peak_bytes == max(memory.training_bytes, memory.gather_bytes)


def test_the_buffers_of_a_plan_are_those_of_the_code() -> None:
    assert BUILD_BUFFER_BYTES == 4 * CHUNK_VALUES
    assert WEIGHT_FILE_BYTES == MAX_SHARD_BYTES


def test_offloaded_state_and_cpu_cores_use_host_memory() -> None:
    """16 bytes a parameter are offloaded: optimizer state and fp32 gradients, over two devices."""
    offloaded = ParallelLayout(
        world_size=2, zero_stage=2, precision="bf16", offload_optimizer="cpu"
    )
    memory = plan_recipe(recipe("350m"), [offloaded], H100).host_memory
    copied = (2 + 12) * PARAMETERS_350M
    assert memory.training_bytes == 2 * 500_000_000 + 16 * PARAMETERS_350M + copied
    on_cores = plan_recipe(recipe("tiny"), [ParallelLayout(world_size=2, precision="fp32")], CPU)
    libraries, weights = 2 * 500_000_000, 4 * on_cores.num_parameters
    resident = libraries + 2 * on_cores.best.memory.total_bytes
    assert on_cores.host_memory.gather_bytes == resident + weights
    assert on_cores.host_memory.sampling_bytes == libraries + 2 * weights
    assert on_cores.host_memory.build_bytes == libraries + 2 * (4_194_304 + weights)


LARGEST_350M = 51_200 * 1024
"""Parameters of the embedding."""


@pytest.mark.parametrize(
    ("zero_stage", "num_parameters"),
    [(2, 4 * PARAMETERS_350M), (3, PARAMETERS_350M + LARGEST_350M)],
)
def test_ranks_on_cpu_cores_hold_their_own_weights(zero_stage: int, num_parameters: int) -> None:
    """ZeRO 3 partitions each parameter over the ranks; otherwise each rank has a copy."""
    layout = ParallelLayout(world_size=4, zero_stage=zero_stage, precision="fp32")
    memory = plan_recipe(recipe("350m"), [layout], CPU).host_memory
    expected = 4 * (500_000_000 + 4_194_304) + 4 * num_parameters
    assert memory.build_bytes == expected
    assert memory.sampling_bytes == 4 * 500_000_000 + 4 * PARAMETERS_350M, "in a single process"


def test_only_trained_stages_are_planned_and_inherited_optimizer_state_is_saved() -> None:
    """Multi saves two fp32 moments a parameter beside its weights."""
    target = recipe("350m").override(
        ["training.start_stage=multi", "training.stages.mono.optimizer_state=inherit"]
    )
    plan = plan_recipe(target, [ParallelLayout(precision="bf16")], H100)
    assert [stage.name for stage in plan.stages] == ["multi", "mono"]
    assert plan.total.tokens == 300_000 * 524_288
    assert plan.disk.results_bytes == (2 * 4 + 8) * PARAMETERS_350M


def test_a_layout_with_tensor_parallelism_is_planned() -> None:
    """Two replicas of eight devices divide the batch; only ZeRO 1 and 2 are supported."""
    target = recipe("16b")
    requested = ParallelLayout(world_size=16, tensor_parallel=8, zero_stage=1, precision="bf16")
    assert allowed_zero_stages(8, "none") == [1, 2]
    plan = plan_recipe(target, [requested, requested.replace(zero_stage=2)], H100)
    assert plan.best.fits
    assert "--exec training.tensor_parallel=8" in execution_options(plan.best.layout, H100)
    with pytest.raises(ConfigError, match="the model has 24 heads, and 16 ranks"):
        plan_recipe(target, [requested.replace(tensor_parallel=16)], H100)
    sequences = 2_097_152 // 2048
    for row in propose(target, requested.replace(micro_batch=64), L40S):
        assert row.fits
        assert row.layout.zero_stage in (1, 2)
        assert sequences % (row.layout.num_replicas * row.layout.micro_batch) == 0


def test_hours_of_the_starter_agree_with_the_measurement() -> None:
    """docs/figures.md: 10.5k to 11.8k tokens/s on two cores."""
    target = recipe("starter")
    layout = Execution().training.replace(precision="fp32")
    plan = plan_recipe(target, [layout], CPU)
    assert 10_000 < plan.total.tokens / (plan.total.hours * 3600) < 12_000


def test_without_a_price_there_is_no_cost_and_the_default_mfu_is_an_assumption() -> None:
    target = recipe("16b")
    plan = plan_recipe(target, [ParallelLayout(world_size=64, precision="bf16")], H100)
    assert plan.total.cost is None
    assert "assumption" in plan.mfu_source


def test_the_lowest_stage_that_fits_is_recommended() -> None:
    target = recipe("16b")
    layouts = [
        ParallelLayout(world_size=64, zero_stage=stage, precision="bf16") for stage in ZERO_STAGES
    ]
    plan = plan_recipe(target, layouts, H100)
    assert [row.fits for row in plan.rows] == [False, False, True, True]
    assert plan.best == plan.rows[2]


def test_the_stage_with_the_most_memory_decides() -> None:
    """Only a stage with several micro-batches has accumulated gradients."""
    target = recipe("350m")
    layout = ParallelLayout(world_size=128, zero_stage=1, precision="bf16", micro_batch=2)
    single = plan_recipe(target, [layout], H100).rows[0].memory
    larger_batch = target.override(["training.stages.multi.global_batch_tokens=2097152"])
    accumulated = plan_recipe(larger_batch, [layout], H100).rows[0].memory
    assert accumulated.total_bytes > single.total_bytes
    assert accumulated.gradients_bytes == 2 * PARAMETERS_350M


def test_the_cheapest_layout_is_proposed_first() -> None:
    target = recipe("16b")

    def first_proposal(**fields: object) -> ParallelLayout:
        layout = ParallelLayout.parse(
            {"world_size": 64, "zero_stage": 0, "precision": "bf16"} | fields
        )
        return propose(target, layout, H100)[0].layout

    assert first_proposal() == ParallelLayout(world_size=64, zero_stage=2, precision="bf16")
    # Four sequences need 57.7 GB beside 32 of weights: a smaller micro-batch before recomputation.
    smaller = first_proposal(micro_batch=4)
    assert (smaller.micro_batch, smaller.activation_checkpoint_interval) == (2, 0)
    # On four devices, 16 bytes a parameter are 64 GB each, too much with 15.7 GB of activations.
    on_four = first_proposal(world_size=4)
    assert (on_four.zero_stage, on_four.offload) == (3, "none")
    assert on_four.activation_checkpoint_interval == 1
    assert first_proposal(world_size=2).offload == "optimizer"


def test_if_offloading_is_required_more_devices_are_proposed_too() -> None:
    target = recipe("16b")
    single_device, more_devices = propose(target, ParallelLayout(precision="bf16"), H100)
    assert (single_device.layout.world_size, single_device.layout.offload) == (1, "optimizer")
    assert (more_devices.layout.world_size, more_devices.layout.offload) == (4, "none")


def test_nothing_is_proposed_if_no_layout_fits() -> None:
    target = recipe("16b")
    tiny_device = L40S.replace(memory_bytes=2_000_000_000)
    assert propose(target, ParallelLayout(precision="bf16"), tiny_device) == []


@given(
    name=st.sampled_from(["350m", "2b", "6b", "16b"]),
    processes=st.sampled_from([1, 2, 8, 64]),
    micro_batch=st.sampled_from([1, 2, 4]),
    zero_stage=st.integers(0, 3),
    precision=st.sampled_from(["bf16", "fp32"]),
    device_name=st.sampled_from(sorted(DEVICES)),
)
def test_recommended_and_proposed_layouts_fit(
    name: str, processes: int, micro_batch: int, zero_stage: int, precision: str, device_name: str
) -> None:
    target = recipe(name)
    planned_device = find_device(device_name)
    values = {
        "world_size": processes,
        "micro_batch": micro_batch,
        "zero_stage": zero_stage,
        "precision": precision,
    }
    requested = ParallelLayout.parse(values)
    plan = plan_recipe(target, [requested], planned_device)
    rows = propose(target, requested, planned_device)
    if plan.best.fits:
        assert plan.best.memory.total_bytes <= 0.9 * planned_device.memory_bytes
        assert rows[0].layout == requested, "a layout that fits is proposed unchanged"
    for row in rows:
        plan = plan_recipe(target, [row.layout], planned_device)
        assert plan.best == row
        assert row.fits
        assert row.layout.world_size >= processes
        assert row.layout.zero_stage >= zero_stage
        assert row.layout.micro_batch <= micro_batch
        assert row.layout.precision == precision


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mfu": 0.0}, "mfu is 0.0"),
        ({"mfu": 40.0}, "set --mfu 0.4 for 40 %"),
        ({"mfu": math.nan}, "mfu is nan"),
        ({"price": -1.0}, "price is -1.0"),
        ({"price": math.inf}, "price is inf"),
    ],
    ids=["no mfu", "mfu in percent", "mfu nan", "negative price", "infinite price"],
)
def test_invalid_mfu_and_price_are_refused(values: dict[str, float], message: str) -> None:
    target = recipe("tiny")
    with pytest.raises(ConfigError, match=message):
        plan_recipe(target, [ParallelLayout(precision="fp32")], CPU, **values)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused() -> None:
    target = recipe("16b")
    with pytest.raises(ConfigError, match="set world_size to 32"):
        plan_recipe(target, [ParallelLayout(world_size=48, precision="fp32")], H100)


def test_the_error_for_an_unknown_device_lists_the_devices() -> None:
    with pytest.raises(ConfigError, match="h100, h200, a100-80, a100-40, l40s, cpu"):
        find_device("v100")


@pytest.mark.parametrize(
    ("layout", "planned_device", "expected"),
    [
        (
            ParallelLayout(world_size=3, micro_batch=5, zero_stage=2, precision="fp32"),
            CPU,
            TrainingExecution(
                world_size=3, micro_batch=5, zero_stage=2, device="cpu", precision="fp32"
            ),
        ),
        (
            ParallelLayout(
                world_size=8,
                zero_stage=3,
                precision="bf16",
                activation_checkpoint_interval=1,
                offload_optimizer="cpu",
                offload_parameters="cpu",
            ),
            H100,
            TrainingExecution(
                world_size=8,
                zero_stage=3,
                device="cuda",
                precision="bf16",
                activation_checkpoint_interval=1,
                offload_optimizer="cpu",
                offload_parameters="cpu",
            ),
        ),
    ],
    ids=["cpu", "h100"],
)
def test_execution_options_set_the_layout_of_a_run(
    layout: ParallelLayout, planned_device: Device, expected: TrainingExecution
) -> None:
    options = [
        option.removeprefix("--exec ") for option in execution_options(layout, planned_device)
    ]
    execution = Execution(training=TrainingExecution()).override(options).training
    assert execution == expected


def test_fp16_is_planned_like_bf16_on_a_gpu_and_refused_for_a_cpu() -> None:
    half, brain = (
        ParallelLayout(world_size=8, precision=precision) for precision in ("fp16", "bf16")
    )
    target = recipe("350m")
    assert plan_recipe(target, [half], H100).total == plan_recipe(target, [brain], H100).total
    with pytest.raises(ConfigError, match="precision is fp16"):
        plan_recipe(target, [half], CPU)
