"""Preflight checks find settings that would stop a flow after hours."""

from __future__ import annotations

import pytest

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from flows.runtime.health_checks import preflight_check
from flows.settings.execution import Execution
from flows.settings.recipes import tiny

# A step of the recipe has four sequences.


def test_an_automatic_micro_batch_is_accepted() -> None:
    preflight_check(tiny(), Execution(training=TrainingExecution(micro_batch="auto", world_size=2)))


@pytest.mark.parametrize(("world_size", "micro_batch"), [(3, "auto"), (1, 3)])
def test_a_batch_that_cannot_be_divided_is_refused(world_size: int, micro_batch: int | str) -> None:
    training = TrainingExecution.parse({"micro_batch": micro_batch, "world_size": world_size})
    with pytest.raises(ConfigError, match="4 sequences"):
        preflight_check(tiny(), Execution(training=training))


def test_only_trained_stages_are_checked() -> None:
    execution = Execution(training=TrainingExecution(world_size=4))
    uneven = tiny().override(["training.stages.nl.global_batch_tokens=256"])
    with pytest.raises(ConfigError, match="1 sequences"):
        preflight_check(uneven, execution)
    preflight_check(uneven.override(["training.start_stage=multi"]), execution)


def test_deepspeed_options_that_contradict_the_recipe_are_refused() -> None:
    options = {"gradient_clipping": 0.5, "csv_monitor": {"enabled": True}}
    training = TrainingExecution(micro_batch=2, world_size=2, deepspeed_config=options)
    with pytest.raises(ConfigError, match=r"gradient_clipping is 0.5 instead of 1.0"):
        preflight_check(tiny(), Execution(training=training))
