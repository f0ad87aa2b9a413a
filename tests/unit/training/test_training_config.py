"""Invalid stages and execution configs are refused."""

from __future__ import annotations

import pytest

from components.core.errors import ConfigError
from components.training.config import StageConfig, TrainingConfig, TrainingExecution

STAGE = {
    "steps": 10,
    "warmup_steps": 2,
    "decay_steps": 8,
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-4,
    "global_batch_tokens": 256,
}


def test_fields_of_a_stage_are_addressed_by_path() -> None:
    stage = StageConfig.parse(STAGE)
    config = TrainingConfig(stages={"nl": stage, "multi": stage.replace(init_stage="nl")})
    assert config.override(["stages.nl.steps=200"]).stages["nl"].steps == 200
    with pytest.raises(ConfigError, match=r"did you mean 'stages\.multi\.warmup_steps'"):
        config.override(["stages.multi.warmup_step=1"])


def test_tokens_are_converted_to_steps_rounded_up() -> None:
    without_steps = {name: value for name, value in STAGE.items() if name != "steps"}
    assert StageConfig.parse(without_steps | {"tokens": 256 * 12}).steps == 12
    assert StageConfig.parse(STAGE).override(["tokens=2817"]) == StageConfig.parse(
        STAGE | {"steps": 12}
    )
    with pytest.raises(ConfigError, match="tokens is 0"):
        StageConfig.parse(STAGE | {"tokens": 0})
    with pytest.raises(ConfigError, match="steps is missing"):
        StageConfig.parse(without_steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 10}, "warmup_steps below steps"),
        ({"min_learning_rate": 2e-3}, "min_learning_rate at most learning_rate"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0"),
    ],
)
def test_an_invalid_stage_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StageConfig.parse({**STAGE, **changes})


def test_an_execution_config_without_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="world_size is 0"):
        TrainingExecution.parse({"world_size": 0})


@pytest.mark.parametrize(
    "values",
    [{"launcher": "hostfile"}, {"hostfile": "hosts"}, {"launcher": "slurm", "hostfile": "hosts"}],
)
def test_a_hostfile_requires_launcher_hostfile(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="a hostfile with launcher hostfile"):
        TrainingExecution.parse(values)
