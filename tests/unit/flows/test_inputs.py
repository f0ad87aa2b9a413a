"""What a flow of several steps asks of its place before the first one."""

from __future__ import annotations

import pytest

from components.core.errors import ConfigError
from components.training.config import TrainingPlace
from flows.execution import Execution
from flows.inputs import check_inputs
from flows.recipes import tiny

# A step of the recipe has four sequences.


def test_a_micro_batch_that_is_settled_later_is_no_mistake() -> None:
    check_inputs(tiny(), Execution(training=TrainingPlace(micro_batch="auto", num_processes=2)))


@pytest.mark.parametrize(("num_processes", "micro_batch"), [(3, "auto"), (1, 3)])
def test_a_batch_that_does_not_divide_is_found(num_processes: int, micro_batch: int | str) -> None:
    place = TrainingPlace.parse({"micro_batch": micro_batch, "num_processes": num_processes})
    with pytest.raises(ConfigError, match="4 sequences"):
        check_inputs(tiny(), Execution(training=place))


def test_only_stages_that_are_trained_are_looked_at() -> None:
    place = Execution(training=TrainingPlace(num_processes=4))
    uneven = tiny().override(["training.stages.nl.batch_tokens=256"])
    with pytest.raises(ConfigError, match="1 sequences"):
        check_inputs(uneven, place)
    check_inputs(uneven.override(["training.first_stage=multi"]), place)
