"""The watchdog of a stage: detects that no rank makes progress, and names the ranks that block it.

Only the launcher's clock counts, and only while the launcher itself runs, so a suspended machine is
no stall. Limits: a rank that repeats the same phase without end but changes it is not detected, and
on a network file system a heartbeat can be seen up to a minute late.
"""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from components.core.errors import StageStalledError
from components.training.launch.failure import write_failure
from components.training.launch.heartbeat import (
    clear_stack_request,
    read_heartbeats,
    read_process_state,
    read_stack,
    request_stacks,
)
from components.training.metrics import StepMetrics
from components.training.run_file import LOG_FILE, WORK_FOLDER, RunFile

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 1.0
_MAX_CHECK_GAP_S = 5.0
"""A longer time between two checks counts as this much: the launcher itself was suspended."""
_NUM_STEP_TIMES = 100
"""Latest step times of which the median is taken (assumption)."""
_STACK_TIMEOUT_S = 5.0
"""For supervisors to answer and ranks to write their stacks (assumption)."""
_POLL_INTERVAL_S = 0.1
_MAX_NAMED_RANKS = 8
"""Ranks in a message; the log has all."""
_BLOCKED_STATES = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_DISK_SLEEP)
_FRAME = re.compile(r'File ".*/components/training/(.+)", line (\d+) in (\S+)')


class _Limit(NamedTuple):
    """The longest time without progress."""

    time_s: float
    rule: str
    """The fields that decide it."""


class Watchdog:
    """Watches the heartbeats of an attempt."""

    def __init__(self, folder: Path, file: RunFile) -> None:
        """Start watching.

        With launcher environment, the time starts with the first heartbeat, because this process
        does not start the ranks.
        """
        self._folder = folder
        self._work = folder / WORK_FOLDER
        self._stage = file.run.stage
        self._execution = file.execution
        self._batch_tokens = file.run.config.global_batch_tokens
        self._beats = read_heartbeats(self._work, file.execution.world_size)
        self._is_watching = file.execution.launcher != "environment"
        self._last_check_s = time.monotonic()
        self._idle_s = 0.0
        self._step_times_s: deque[float] = deque(maxlen=_NUM_STEP_TIMES)

    def record_steps(self, steps: Sequence[StepMetrics]) -> None:
        """Record the times of the steps of this attempt; ignore those of earlier attempts."""
        if not steps:
            return
        beat = read_heartbeats(self._work, 1).get(0)
        if beat and beat.resumed_step is not None:
            for step in steps:
                if step.step > beat.resumed_step:
                    self._step_times_s.append(self._batch_tokens / step.tokens_per_s)

    def check(self) -> None:
        """Read the heartbeats, at most once per second.

        Raises:
            StageStalledError: no heartbeat has changed within the limit. The ranks are told to end.
        """
        now_s = time.monotonic()
        elapsed_s = now_s - self._last_check_s
        if self._execution.stall_factor is None or elapsed_s < _CHECK_INTERVAL_S:
            return
        self._last_check_s = now_s
        beats = read_heartbeats(self._work, self._execution.world_size)
        if beats != self._beats:
            self._beats = beats
            self._is_watching = True
            self._idle_s = 0.0
        elif self._is_watching:
            self._idle_s += min(elapsed_s, _MAX_CHECK_GAP_S)
            limit = self._limit(self._execution.stall_factor)
            if self._idle_s > limit.time_s:
                error = self._describe_stall(limit)
                write_failure(self._work, error)  # The supervisors end their ranks.
                raise error

    @property
    def _are_all_stepping(self) -> bool:
        beats = self._beats.values()
        is_complete = len(beats) == self._execution.world_size
        is_measured = bool(self._step_times_s)
        return is_measured and is_complete and all(beat.is_stepping for beat in beats)

    def _limit(self, factor: float) -> _Limit:
        execution = self._execution
        if not self._are_all_stepping:
            rule = "training.stall_phase_s, for phases other than steps"
            return _Limit(execution.stall_phase_s, rule)
        median_s = statistics.median(self._step_times_s)
        rule = f"training.stall_factor, {factor:g}, times the median step of {median_s:.3g} s, "
        rule += "and at least training.stall_min_s"
        return _Limit(max(factor * median_s, execution.stall_min_s), rule)

    def _describe_stall(self, limit: _Limit) -> StageStalledError:
        """Collect process states and stacks, append the stacks to the log, and return the error."""
        states = self._collect_stacks()
        ranks = sorted(self._beats, key=lambda rank: self._report_order(rank, states))
        self._log_stacks(ranks, states)
        num_steps = min((beat.step for beat in self._beats.values()), default=0)
        texts = [self._describe_rank(rank, states[rank]) for rank in ranks[:_MAX_NAMED_RANKS]]
        missing = set(range(self._execution.world_size)) - self._beats.keys()
        if missing:
            texts.insert(0, f"not started: rank {', '.join(map(str, sorted(missing)))}")
        return StageStalledError(
            f"stage {self._stage} stalled after step {num_steps}: no progress for "
            f"{self._idle_s:.0f} s; {'; '.join(texts)}",
            expected=f"progress within {limit.time_s:.0f} s ({limit.rule})",
            fix=f"read the stacks of the ranks in {self._folder / LOG_FILE}; then run the same "
            "command again to resume, with a higher limit if the stage is slow",
        )

    def _collect_stacks(self) -> dict[int, str | None]:
        """The state of each rank's process; None without an answer of its supervisor."""
        clear_stack_request(self._work)
        request_stacks(self._work)
        deadline_s = time.monotonic() + _STACK_TIMEOUT_S
        while time.monotonic() < deadline_s:
            states = {rank: read_process_state(self._work, rank) for rank in self._beats}
            has_stacks = all(
                state in _BLOCKED_STATES or read_stack(self._work, rank)
                for rank, state in states.items()
            )
            if None not in states.values() and has_stacks:
                break
            time.sleep(_POLL_INTERVAL_S)
        return {rank: read_process_state(self._work, rank) for rank in self._beats}

    def _report_order(
        self, rank: int, states: dict[int, str | None]
    ) -> tuple[bool, tuple[int, int]]:
        """The order of ranks in the message: first those that cannot run, then the slowest."""
        can_run = states[rank] is not None and states[rank] not in _BLOCKED_STATES
        return can_run, self._beats[rank].position

    def _describe_rank(self, rank: int, state: str | None) -> str:
        beat = self._beats[rank]
        state_text = state or "no answer of its supervisor"
        text = f"rank {rank} (process {beat.pid} on {beat.host}, {state_text}): "
        text += f"step {beat.step}, {beat.phase}"
        if frame := self._innermost_frame(rank):
            text += f" in {frame}"
        return text

    def _innermost_frame(self, rank: int) -> str:
        """The innermost function of the trainer in the main thread, which is the last."""
        main_thread = read_stack(self._work, rank).rpartition("(most recent call first)")[2]
        match = _FRAME.search(main_thread)
        return f"{match[3]} ({match[1]}:{match[2]})" if match else ""

    def _log_stacks(self, ranks: list[int], states: dict[int, str | None]) -> None:
        log = self._folder / LOG_FILE
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as output:
            for rank in ranks:
                output.write(f"\nstalled: {self._describe_rank(rank, states[rank])}\n")
                output.write(read_stack(self._work, rank) or "no stack\n")
