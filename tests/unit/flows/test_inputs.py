"""What a flow of several steps asks of its place before the first one."""

from __future__ import annotations

import pytest

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import tiny

# A step of the recipe has four sequences.


def test_a_micro_batch_that_is_settled_later_is_no_mistake() -> None:
    preflight_check(tiny(), Execution(training=TrainingExecution(micro_batch="auto", world_size=2)))


@pytest.mark.parametrize(("world_size", "micro_batch"), [(3, "auto"), (1, 3)])
def test_a_batch_that_does_not_divide_is_found(world_size: int, micro_batch: int | str) -> None:
    place = TrainingExecution.parse({"micro_batch": micro_batch, "world_size": world_size})
    with pytest.raises(ConfigError, match="4 sequences"):
        preflight_check(tiny(), Execution(training=place))


def test_only_stages_that_are_trained_are_looked_at() -> None:
    place = Execution(training=TrainingExecution(world_size=4))
    uneven = tiny().override(["training.stages.nl.global_batch_tokens=256"])
    with pytest.raises(ConfigError, match="1 sequences"):
        preflight_check(uneven, place)
    preflight_check(uneven.override(["training.start_stage=multi"]), place)
