"""The commands that start the ranks of a stage: on this host, over ssh, or by Slurm.

Plain `ssh` starts DeepSpeed's launcher on every host of a hostfile, instead of DeepSpeed's runner,
which needs pdsh. ssh and srun forward standard input and pdsh does not, so ranks on other hosts end
with the flow too. MPI is not supported.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from components.core.errors import ConfigError
from components.core.network import free_port
from components.training.config import TrainingExecution

_LOOPBACK = "127.0.0.1"
_REMOTE_PORTS = range(20_000, 32_768)
"""Ports to try on another host: below those that Linux assigns by itself (from 32,768 on)."""
_FORWARDED_VARIABLES = re.compile("PYTHONPATH|(NCCL|GLOO|UCX)_.*")
"""Environment variables that are passed to other hosts."""
_HOST_LINE = re.compile(r"(\S+)\s+slots=([1-9]\d*)\s*(#.*)?")

Command = list[str]


def launch_commands(
    run_file: Path, execution: TrainingExecution, port: int, environment: Mapping[str, str]
) -> list[Command]:
    """The commands that, started together, train the stage of a `run.json`.

    Args:
        port: rendezvous port of the ranks.
        environment: for Slurm's variables and variables to forward to other hosts.

    Raises:
        ConfigError: the hostfile is invalid or has too few slots, or there is no Slurm allocation.
    """
    variables = [] if execution.uses_gpu else ["DS_ACCELERATOR=cpu"]
    trainer = ["components.training", str(run_file)]
    if execution.launcher == "local":
        hosts = {"localhost": execution.world_size}
        launcher = _deepspeed_launcher(hosts, 0, _LOOPBACK, port)
        return [["env", *variables, *launcher, *trainer]]
    if execution.launcher == "slurm":
        srun = _srun(execution, environment)
        variables.append(f"MASTER_PORT={port}")
        return [["env", *variables, *srun, sys.executable, "-m", *trainer]]
    hosts = read_hostfile(Path(str(execution.hostfile)), execution.world_size)
    for name, value in sorted(environment.items()):
        if _FORWARDED_VARIABLES.fullmatch(name):
            variables.append(f"{name}={value}")
    first_host = next(iter(hosts))
    commands = []
    for node, host in enumerate(hosts):
        launcher = _deepspeed_launcher(hosts, node, first_host, port)
        command = shlex.join(["exec", "env", *variables, *launcher, *trainer])
        remote_command = f"cd {shlex.quote(str(Path.cwd()))} && {command}"
        commands.append(["ssh", "-o", "BatchMode=yes", host, remote_command])
    return commands


def select_master_port(execution: TrainingExecution) -> int:
    """The configured port, a free port of this host, or for other hosts a random port."""
    if execution.master_port is not None:
        return execution.master_port
    return free_port() if execution.launcher == "local" else secrets.choice(_REMOTE_PORTS)


def read_hostfile(path: Path, world_size: int) -> dict[str, int]:
    """The number of ranks of each host that is used, filling the hosts in their order.

    Raises:
        ConfigError: the file is absent, a line is invalid, a host is repeated, or the file has too
            few slots.
    """
    expected = "a line HOST slots=RANKS for every host"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"the hostfile {path} cannot be read: {error.strerror}",
            expected=expected,
            fix="set --exec training.hostfile to a readable file",
        ) from None
    ranks_by_host: dict[str, int] = {}
    num_slots = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _HOST_LINE.fullmatch(line.strip())
        if not match or match[1] in ranks_by_host or match[1].startswith("-"):
            raise ConfigError(
                f"line {number} of {path} is {line!r}",
                expected=f"{expected}, without repeated hosts",
                fix="correct the line",
            )
        num_ranks = min(int(match[2]), world_size - num_slots)
        num_slots += num_ranks
        if num_ranks:
            ranks_by_host[match[1]] = num_ranks
    if num_slots < world_size:
        raise ConfigError(
            f"{path} has {num_slots} slots and world_size is {world_size}",
            expected="a slot for every rank",
            fix=f"set world_size to {num_slots}, or add hosts",
        )
    return ranks_by_host


def _deepspeed_launcher(hosts: dict[str, int], node: int, address: str, port: int) -> Command:
    """DeepSpeed's launcher of a host. The `deepspeed` command would import torch once more."""
    ranks = {host: list(range(num_ranks)) for host, num_ranks in hosts.items()}
    world_info = base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch"),
        f"--world_info={world_info}",
        f"--node_rank={node}",
        f"--master_addr={address}",
        f"--master_port={port}",
        "--no_local_rank",
        "--module",
    ]


def _srun(execution: TrainingExecution, environment: Mapping[str, str]) -> Command:
    if "SLURM_JOB_ID" not in environment:
        raise ConfigError(
            "launcher is slurm, and there is no Slurm allocation: SLURM_JOB_ID is not set",
            expected="a flow that runs inside an allocation",
            fix=f"start it with `salloc --ntasks={execution.world_size} codegen ...`, or from an "
            "sbatch script",
        )
    return ["srun", f"--ntasks={execution.world_size}", "--kill-on-bad-exit=1", "--mpi=none"]
