"""The process of a rank: its launcher's variables, its supervisor process, and preemption.

`read_rank_env` reads the launcher's variables: those of torch, which DeepSpeed's launcher, torchrun
and Kubernetes operators set, or those of a Slurm task. MPI is not supported.

`run_supervised` runs the rank in a child process, forked before large imports. A killed rank cannot
report it, and ranks may wait for it in a collective for minutes (NCCL). The parent reports a death
by a signal, and kills the rank `_GRACE_S` after another rank has reported a failure. If the parent
is killed, the rank reports that and exits. If the stage stalls, the parent writes the state of the
rank's process and asks the rank for its stack (`heartbeat`). Not covered: a host that fails
completely.

SIGTERM (a preempted node, a cancelled flow) sets a flag that ranks exchange at every step, so all
of them save a checkpoint and stop after the same step.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil

from components.core.errors import ConfigError, StageInterruptedError
from components.training.config import TrainingExecution
from components.training.launch.failure import has_failure_report, report_failure
from components.training.launch.heartbeat import answer_stack_request, has_stack_request

_SLURM_VARIABLES = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
}
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^[]*\])")
_SLURM_RANGE = re.compile(r"\[([^],-]+)[^]]*\]")

_GRACE_S = 5.0
"""For a rank to exit by itself after another's failure (assumption: enough for its traceback)."""
_POLL_INTERVAL_S = 0.2

_preemption = threading.Event()


class RankEnv(NamedTuple):
    """A rank's position in the process group, and the rendezvous address."""

    rank: int
    local_rank: int
    """Among the ranks of its host."""
    world_size: int
    master_address: str
    master_port: int

    def variables(self) -> dict[str, str]:
        """The variables that torch and DeepSpeed read."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.master_address,
            "MASTER_PORT": str(self.master_port),
        }


def read_rank_env(environment: Mapping[str, str]) -> RankEnv:
    """Read the launcher's variables; Slurm's if `RANK` is not set.

    Raises:
        ConfigError: a variable is not set, or not a number.
    """
    variables = dict(environment)
    if "RANK" not in variables and "SLURM_PROCID" in variables:
        for name, slurm_name in _SLURM_VARIABLES.items():
            if slurm_name in variables:
                variables[name] = variables[slurm_name]
        node_list = variables.get("SLURM_STEP_NODELIST", "")
        variables.setdefault("MASTER_ADDR", first_slurm_host(node_list))
    return RankEnv(
        rank=_require_number(variables, "RANK"),
        local_rank=_require_number(variables, "LOCAL_RANK"),
        world_size=_require_number(variables, "WORLD_SIZE"),
        master_address=_require_variable(variables, "MASTER_ADDR"),
        master_port=_require_number(variables, "MASTER_PORT"),
    )


def check_world_size(rank_env: RankEnv, execution: TrainingExecution) -> None:
    """Check that the launcher started as many ranks as configured.

    Raises:
        ConfigError: it did not.
    """
    if rank_env.world_size != execution.world_size:
        raise ConfigError(
            f"{rank_env.world_size} ranks were started (WORLD_SIZE) and world_size is "
            f"{execution.world_size}",
            expected="as many ranks as world_size",
            fix=f"start {execution.world_size} ranks, or set world_size to {rank_env.world_size}",
        )


def first_slurm_host(node_list: str) -> str:
    """The first host of a Slurm node list, which runs rank 0: `gpu03` of `gpu[03-05,09],login`."""
    first_item = _COMMA_OUTSIDE_BRACKETS.split(node_list, maxsplit=1)[0]
    return _SLURM_RANGE.sub(r"\1", first_item)


def network_interface_for(address: str) -> str | None:
    """The network interface that reaches an address, or None if it is unknown.

    gloo would use the interface of this host's name, which is the loopback on many systems.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 1))  # Sends nothing: a datagram socket only finds the route.
            local_address: str = probe.getsockname()[0]
    except OSError:
        return None
    for name, interface_addresses in psutil.net_if_addrs().items():
        if any(entry.address == local_address for entry in interface_addresses):
            return str(name)
    return None


def install_sigterm_handler() -> None:
    """Make SIGTERM request preemption. Must be called by the main thread."""
    signal.signal(signal.SIGTERM, lambda *_: _preemption.set())


def is_preemption_requested() -> bool:
    """Whether this rank has received SIGTERM."""
    return _preemption.is_set()


def preemption_error(stage: str, step: int) -> StageInterruptedError:
    """The error that ends a preempted stage, after its checkpoint is saved."""
    return StageInterruptedError(
        f"stage {stage} was preempted (SIGTERM); checkpoint saved at step {step}",
        expected="no interruption before the last step",
        fix="run the same command again to resume",
    )


def run_supervised(
    work: Path, rank: int, job: Callable[[], int], *, end_with_stdin: bool
) -> NoReturn:
    """Run `job` in a child process, and exit with 0 if it returns 0, otherwise with 1.

    Args:
        work: the stage's work folder, for failure reports.
        end_with_stdin: kill the rank when standard input is closed; a byte is sent as SIGTERM.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        watcher = threading.Thread(
            target=_exit_with_supervisor, args=(read_end, work, rank), daemon=True
        )
        watcher.start()
        sys.exit(job())
    os.close(read_end)
    signal.signal(signal.SIGTERM, lambda *_: _send_signal(child, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends it to the child as well.
    if end_with_stdin:
        threading.Thread(target=_follow_stdin, args=(child,), daemon=True).start()
    exit_code = _wait_for_rank(child, work, rank)
    if exit_code < 0:
        report_failure(work, rank, _killed_error(rank, signal.Signals(-exit_code)))
    sys.exit(int(exit_code != 0))


def _wait_for_rank(child: int, work: Path, rank: int) -> int:
    """Wait for the rank. Returns its exit code, negative for a signal."""
    deadline: float | None = None
    has_answered = False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if not has_answered and has_stack_request(work):
            has_answered = True
            answer_stack_request(work, rank, child)
        if deadline is None and has_failure_report(work):
            deadline = time.monotonic() + _GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            _send_signal(child, signal.SIGKILL)
        time.sleep(_POLL_INTERVAL_S)


def _killed_error(rank: int, killed_by: signal.Signals) -> StageInterruptedError:
    fix = "run the same command again to resume from the last checkpoint"
    if killed_by == signal.SIGKILL:
        fix += "; if the system killed it for lack of memory, use a smaller micro_batch"
    return StageInterruptedError(
        f"rank {rank} on host {socket.gethostname()} was killed by {killed_by.name}",
        expected="every rank to reach the last step",
        fix=fix,
    )


def _exit_with_supervisor(read_end: int, work: Path, rank: int) -> None:
    os.read(read_end, 1)  # Nothing is written; returns when the supervisor is gone.
    report_failure(work, rank, _killed_error(rank, signal.SIGKILL))
    os._exit(1)  # Other threads may wait in a collective, which sys.exit would not end.


def _follow_stdin(child: int) -> None:
    while os.read(0, 1):
        _send_signal(child, signal.SIGTERM)
    _send_signal(child, signal.SIGKILL)
    os._exit(1)


def _send_signal(child: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _require_variable(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name)
    if not value:
        raise ConfigError(
            f"{name} is not set",
            expected="RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or a Slurm task "
            "with MASTER_PORT",
            fix="start ranks with a launcher: "
            "torchrun --nproc-per-node NUMBER -m components.training FOLDER/run.json",
        )
    return value


def _require_number(variables: Mapping[str, str], name: str) -> int:
    value = _require_variable(variables, name)
    if not value.isdecimal():
        raise ConfigError(
            f"{name} is {value!r}",
            expected="a number",
            fix=f"set {name} to a number where the ranks are started",
        )
    return int(value)
