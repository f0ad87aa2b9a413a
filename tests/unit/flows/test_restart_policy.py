"""Which failures of a stage are followed by a restart."""

from __future__ import annotations

import pytest
from prefect import task

from components.core.errors import (
    CodegenError,
    ConfigError,
    DiskFullError,
    RemoteError,
    StageInterruptedError,
    StageStalledError,
    TrainingError,
)
from components.training.config import TrainingExecution
from flows.runtime.context import retry_delays
from flows.settings.execution import Execution
from flows.steps.stage_training import RestartPolicy, is_restartable


def fail(policy: RestartPolicy, error: type[CodegenError], *steps: int) -> CodegenError:
    """Fail after steps of an attempt; returns the error that the policy raises."""
    with pytest.raises(CodegenError) as failure, policy.attempt():
        for step in steps:
            policy.record_step(step)
        raise error("got", expected="expected", fix="fix")
    return failure.value


def policy(max_restarts: int = 2, **training: object) -> RestartPolicy:
    execution = Execution(max_restarts=max_restarts, training=TrainingExecution.parse(training))
    return RestartPolicy("nl", execution)


@pytest.mark.parametrize("error", [StageInterruptedError, StageStalledError, RemoteError])
def test_an_interrupted_stage_is_restarted_up_to_the_limit(error: type[CodegenError]) -> None:
    restarts = policy(max_restarts=2)
    assert is_restartable(fail(restarts, error, 1, 2))
    assert is_restartable(fail(restarts, error, 1, 2, 3))
    last = fail(restarts, error, 3, 4)
    assert type(last) is TrainingError
    assert "after 2 restarts" in last.got
    assert "max_restarts, 2" in last.expected


@pytest.mark.parametrize("error", [ConfigError, DiskFullError, TrainingError])
def test_other_errors_are_raised_unchanged(error: type[CodegenError]) -> None:
    raised = fail(policy(), error, 1)
    assert type(raised) is error
    assert not is_restartable(raised)
    assert (raised.got, raised.expected, raised.fix) == ("got", "expected", "fix")


def test_the_same_failure_at_the_same_step_is_not_restarted_again() -> None:
    restarts = policy(max_restarts=9)
    assert is_restartable(fail(restarts, StageInterruptedError, 1, 2, 3, 4, 5))
    raised = fail(restarts, StageInterruptedError, 4, 5)
    assert not is_restartable(raised)
    assert "failed twice after step 5" in raised.got

    restarts = policy(max_restarts=9)
    assert is_restartable(fail(restarts, StageInterruptedError, 5))
    assert is_restartable(fail(restarts, StageStalledError, 5)), "another failure"
    assert is_restartable(fail(restarts, StageInterruptedError))
    raised = fail(restarts, StageInterruptedError)
    assert not is_restartable(raised)
    assert "failed twice before its first step" in raised.got


def test_a_failure_before_the_first_step_of_a_run_is_not_restarted() -> None:
    raised = fail(policy(), StageInterruptedError)
    assert not is_restartable(raised)
    assert raised.got == "got"


def test_ranks_of_another_launcher_are_not_restarted() -> None:
    restarts = policy(launcher="environment")
    assert not is_restartable(fail(restarts, StageStalledError, 1, 2))


def test_a_cancelled_stage_is_not_restarted() -> None:
    restarts = policy()
    with pytest.raises(KeyboardInterrupt), restarts.attempt():
        restarts.record_step(1)
        raise KeyboardInterrupt


def test_delays_between_restarts_double_up_to_five_minutes() -> None:
    assert retry_delays(2) == [5, 10]
    assert retry_delays(12) == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300, 300]
    assert retry_delays(0) == []
    many = task(retries=1_000, retry_delay_seconds=retry_delays(1_000))(fail)
    assert isinstance(many.retry_delay_seconds, list)
    assert many.retry_delay_seconds[-1] == 300, "Prefect repeats the last delay"
