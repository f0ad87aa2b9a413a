"""Plans: figures worked out by hand, proposals that fit, and what cannot be asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.training.config import (
    ZERO_STAGES,
    ParallelLayout,
    TrainingExecution,
    allowed_zero_stages,
)
from components.training.planning.devices import DEVICES, Device, find_device
from components.training.planning.planner import execution_options, make_plan, propose_layouts
from flows.settings.execution import Execution
from flows.settings.recipes import recipe

A100, H100, L40S, CPU = (find_device(name) for name in ("a100-80", "h100", "l40s", "cpu"))
FLOPS_PER_TOKEN_350M = 2_076_180_480
"""6 (20 * 12 * 1024^2 + 51,200 * 1024) + 6 * 20 * 1024 * 2048."""
RECOMPUTED_350M = 587_202_560
"""A third of that without the head's 6 * 51,200 * 1024."""
NL_TOKENS_350M = 350_000 * 524_288


@pytest.mark.parametrize(
    ("checkpoint", "per_token"),
    [(False, FLOPS_PER_TOKEN_350M), (True, FLOPS_PER_TOKEN_350M + RECOMPUTED_350M)],
    ids=["kept", "computed again"],
)
def test_hours_and_cost_worked_out_by_hand(checkpoint: bool, per_token: int) -> None:
    made = recipe("350m")
    setting = ParallelLayout(
        world_size=8, zero_stage=1, precision="bf16", activation_checkpoint_interval=checkpoint
    )
    plan = make_plan(made.model, made.training.trained, [setting], A100, mfu=0.5, price=1.5)
    nl, multi, mono = plan.stages
    assert (nl.name, multi.name, mono.name) == ("nl", "multi", "mono")
    assert (nl.tokens, multi.tokens, mono.tokens) == (
        NL_TOKENS_350M,
        150_000 * 524_288,
        150_000 * 524_288,
    )
    assert nl.flops == NL_TOKENS_350M * FLOPS_PER_TOKEN_350M, (
        "of the model, whatever is computed again"
    )
    hours = NL_TOKENS_350M * per_token / (8 * 312e12 * 0.5) / 3600
    assert nl.hours == pytest.approx(hours)
    assert nl.cost == pytest.approx(hours * 8 * 1.5)
    assert plan.total.tokens == 650_000 * 524_288
    assert plan.total.hours == pytest.approx(hours * 650 / 350)
    assert plan.mfu_source == "as given"


def test_disk_worked_out_by_hand() -> None:
    """Two checkpoints are kept while a third is written: 14 bytes a parameter each; three results of 4 bytes."""
    made = recipe("350m")
    plan = make_plan(made.model, made.training.trained, [ParallelLayout(precision="bf16")], H100)
    assert (
        plan.num_parameters == 356_712_448
    )  # 20 (12 * 1024^2 + 7 * 1024) + 2 * 51,200 * 1024 + 51,200 + 2 * 1024
    assert plan.checkpoints_bytes == 3 * 14 * 356_712_448
    assert plan.results_bytes == 3 * 4 * 356_712_448


def test_only_stages_that_are_trained_are_planned_and_moments_lie_on_disk() -> None:
    """Multi leaves Mono two fp32 moments a parameter beside its weights."""
    made = recipe("350m").override(
        ["training.start_stage=multi", "training.stages.mono.optimizer_state=inherit"]
    )
    plan = make_plan(made.model, made.training.trained, [ParallelLayout(precision="bf16")], H100)
    assert [one.name for one in plan.stages] == ["multi", "mono"]
    assert plan.total.tokens == 300_000 * 524_288
    assert plan.results_bytes == (2 * 4 + 8) * 356_712_448


def test_copies_on_several_devices_are_planned_as_they_can_be_run() -> None:
    """With 16 devices that share heads by eights, two copies divide the batch, and only ZeRO 1 and 2 are compared."""
    made = recipe("16b")
    asked = ParallelLayout(world_size=16, tensor_parallel=8, zero_stage=1, precision="bf16")
    assert allowed_zero_stages(8, "none") == [1, 2]
    plan = make_plan(made.model, made.training.trained, [asked, asked.replace(zero_stage=2)], H100)
    assert plan.best.fits
    assert "--exec training.tensor_parallel=8" in execution_options(plan.best.layout, H100)
    with pytest.raises(ConfigError, match="the model has 24 heads, and 16 ranks share a copy"):
        make_plan(made.model, made.training.trained, [asked.replace(tensor_parallel=16)], H100)
    sequences = 2_097_152 // 2048
    for row in propose_layouts(
        made.model, made.training.trained, asked.replace(micro_batch=64), L40S
    ):
        assert row.fits
        assert row.layout.zero_stage in (1, 2)
        assert sequences % (row.layout.num_replicas * row.layout.micro_batch) == 0


def test_hours_of_the_starter_are_those_that_were_measured() -> None:
    """docs/figures.md: 10.5k to 11.8k tokens/s on two cores."""
    made = recipe("starter")
    place = Execution().training
    setting = ParallelLayout(world_size=place.world_size, micro_batch=place.micro_batch)
    plan = make_plan(made.model, made.training.trained, [setting], CPU)
    assert 10_000 < plan.total.tokens / (plan.total.hours * 3600) < 12_000


def test_without_a_price_there_is_no_cost_and_the_default_mfu_is_called_an_assumption() -> None:
    made = recipe("16b")
    plan = make_plan(
        made.model, made.training.trained, [ParallelLayout(world_size=64, precision="bf16")], H100
    )
    assert plan.total.cost is None
    assert "assumption" in plan.mfu_source


def test_the_lowest_stage_that_fits_is_recommended() -> None:
    made = recipe("16b")
    settings = [
        ParallelLayout(world_size=64, zero_stage=stage, precision="bf16") for stage in ZERO_STAGES
    ]
    plan = make_plan(made.model, made.training.trained, settings, H100)
    assert [row.fits for row in plan.rows] == [False, False, True, True]
    assert plan.best == plan.rows[2]


def test_a_stage_with_fewer_micro_batches_does_not_hide_one_with_more() -> None:
    """Gradients of earlier micro-batches are there in the fullest stage, if not in all."""
    made = recipe("350m")
    setting = ParallelLayout(world_size=128, zero_stage=1, precision="bf16", micro_batch=2)
    stages = made.training.trained
    once = make_plan(made.model, stages, [setting], H100).rows[0].memory
    more = stages | {"multi": stages["multi"].replace(global_batch_tokens=4 * 524_288)}
    summed = make_plan(made.model, more, [setting], H100).rows[0].memory
    assert summed.total_bytes > once.total_bytes
    assert summed.gradients_bytes == 2 * 356_712_448


def test_proposals_begin_with_what_costs_least() -> None:
    made = recipe("16b")

    def first(**asked: object) -> ParallelLayout:
        setting = ParallelLayout.parse(
            {"world_size": 64, "zero_stage": 0, "precision": "bf16"} | asked
        )
        return propose_layouts(made.model, made.training.trained, setting, H100)[0].layout

    assert first() == ParallelLayout(world_size=64, zero_stage=2, precision="bf16")
    # Four sequences take 57.7 GB beside 32 of weights: one sequence less at a time, before anything is computed again.
    assert (
        first(micro_batch=4).micro_batch,
        first(micro_batch=4).activation_checkpoint_interval,
    ) == (
        2,
        False,
    )
    # On four devices 16 bytes a parameter are 64 GB each, too much beside 15.7 of activations.
    on_four = first(world_size=4)
    assert (on_four.zero_stage, on_four.activation_checkpoint_interval, on_four.offload) == (
        3,
        True,
        "none",
    )
    assert first(world_size=2).offload == "optimizer"


def test_where_offloading_is_needed_more_devices_are_proposed_too() -> None:
    made = recipe("16b")
    here, more = propose_layouts(
        made.model, made.training.trained, ParallelLayout(precision="bf16"), H100
    )
    assert (here.layout.world_size, here.layout.offload) == (1, "optimizer")
    assert (more.layout.world_size, more.layout.offload) == (4, "none")


def test_nothing_is_proposed_where_nothing_fits() -> None:
    made = recipe("16b")
    tiny_device = L40S.replace(memory_bytes=2_000_000_000)
    assert (
        propose_layouts(
            made.model, made.training.trained, ParallelLayout(precision="bf16"), tiny_device
        )
        == []
    )


@given(
    name=st.sampled_from(["350m", "2b", "6b", "16b"]),
    processes=st.sampled_from([1, 2, 8, 64]),
    micro_batch=st.sampled_from([1, 2, 4]),
    zero_stage=st.integers(0, 3),
    precision=st.sampled_from(["bf16", "fp32"]),
    on=st.sampled_from(sorted(DEVICES)),
)
def test_what_is_recommended_and_proposed_fits(
    name: str, processes: int, micro_batch: int, zero_stage: int, precision: str, on: str
) -> None:
    made, where = recipe(name), find_device(on)
    values = {
        "world_size": processes,
        "micro_batch": micro_batch,
        "zero_stage": zero_stage,
        "precision": precision,
    }
    asked = ParallelLayout.parse(values)
    plan = make_plan(made.model, made.training.trained, [asked], where)
    rows = propose_layouts(made.model, made.training.trained, asked, where)
    if plan.best.fits:
        assert plan.best.memory.total_bytes <= 0.9 * where.memory_bytes
        assert rows[0].layout == asked, "what fits needs no sacrifice"
    for row in rows:
        again = make_plan(made.model, made.training.trained, [row.layout], where)
        assert again.best == row
        assert row.fits
        assert row.layout.world_size >= processes
        assert row.layout.zero_stage >= zero_stage
        assert row.layout.micro_batch <= micro_batch
        assert row.layout.precision == precision


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mfu": 0.0}, "mfu is 0.0"),
        ({"mfu": 40.0}, "--mfu 0.4 is 40 %"),
        ({"mfu": math.nan}, "mfu is nan"),
        ({"price": -1.0}, "price is -1.0"),
        ({"price": math.inf}, "price is inf"),
    ],
    ids=["no mfu", "mfu in percent", "mfu nan", "negative price", "infinite price"],
)
def test_figures_that_cannot_be_are_refused(values: dict[str, float], says: str) -> None:
    made = recipe("tiny")
    with pytest.raises(ConfigError, match=says):
        make_plan(made.model, made.training.trained, [ParallelLayout()], CPU, **values)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused() -> None:
    made = recipe("16b")
    with pytest.raises(ConfigError, match="set world_size to 32"):
        make_plan(made.model, made.training.trained, [ParallelLayout(world_size=48)], H100)


def test_an_unknown_device_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="h100, h200, a100-80, a100-40, l40s, cpu"):
        find_device("v100")


@pytest.mark.parametrize(
    ("setting", "on", "expected"),
    [
        (
            ParallelLayout(world_size=3, micro_batch=5, zero_stage=2),
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
                activation_checkpoint_interval=True,
                offload="all",
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
def test_the_options_of_a_place_make_a_run_use_the_setting(
    setting: ParallelLayout, on: Device, expected: TrainingExecution
) -> None:
    options = [option.removeprefix("--exec ") for option in execution_options(setting, on)]
    place = Execution(training=TrainingExecution()).override(options).training
    assert place == expected
