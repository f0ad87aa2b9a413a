"""Heartbeats of ranks, and stacks on request."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import psutil

from components.training.launch.heartbeat import (
    HeartbeatWriter,
    answer_stack_request,
    clear_heartbeats,
    has_stack_request,
    read_heartbeats,
    read_process_state,
    read_stack,
    request_stacks,
)


def test_a_heartbeat_has_the_last_step_and_phase_of_each_rank(tmp_path: Path) -> None:
    with HeartbeatWriter(tmp_path, 2) as writer:
        (beat,) = read_heartbeats(tmp_path, world_size=4).values()
        assert (beat.rank, beat.host, beat.pid) == (2, socket.gethostname(), os.getpid())
        assert (beat.step, beat.resumed_step, beat.phase) == (0, None, "starting")
        positions = [beat.position]
        for phase, step in (
            ("loading a checkpoint", None),
            ("reading a batch", 40),
            ("computing the loss", None),
            ("updating the weights", None),
            ("reading a batch", 41),
        ):
            assert not beat.is_stepping, "nor in the first step of an attempt"
            writer.report(phase, step)
            beat = read_heartbeats(tmp_path, world_size=4)[2]
            positions.append(beat.position)
        assert (beat.step, beat.resumed_step, beat.phase) == (41, 40, "reading a batch")
        assert beat.is_stepping
        assert positions == sorted(positions), "a rank that others wait for has the lowest position"
        writer.report("saving a checkpoint")
        assert not read_heartbeats(tmp_path, world_size=4)[2].is_stepping

    (tmp_path / "rank-0.heartbeat").write_bytes(b'{"rank": 0, "ho')
    assert read_heartbeats(tmp_path, world_size=4).keys() == {2}
    clear_heartbeats(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_rank_writes_its_stack_on_request(tmp_path: Path) -> None:
    with HeartbeatWriter(tmp_path, 0):
        assert not has_stack_request(tmp_path)
        request_stacks(tmp_path)
        assert has_stack_request(tmp_path)
        assert read_process_state(tmp_path, 0) is None
        answer_stack_request(tmp_path, 0, os.getpid())
        assert read_process_state(tmp_path, 0) == psutil.STATUS_RUNNING
        while not read_stack(tmp_path, 0).endswith("\n"):
            time.sleep(0.01)  # The kernel may deliver the signal later.
        assert "in test_a_rank_writes_its_stack_on_request" in read_stack(tmp_path, 0)
    # A rank that has not started would be killed by the signal.
    answer_stack_request(tmp_path, 1, os.getpid())
    assert read_process_state(tmp_path, 1) == psutil.STATUS_RUNNING
