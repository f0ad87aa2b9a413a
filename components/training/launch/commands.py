"""The commands that start the ranks of a stage: on this host, over ssh on the hosts of a hostfile, or by Slurm.

DeepSpeed's launcher for one host does the work on every host of a hostfile; plain `ssh` starts it there, where DeepSpeed's
own runner takes pdsh. ssh and srun hand standard input on and pdsh does not: so ranks on other hosts end with the flow too,
and nothing but ssh has to be installed. Not covered: MPI's launchers.
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
_PORTS = range(20_000, 32_768)
"""Of another host, where none can be found free: below those that Linux gives away by itself (from 32,768 on)."""
_HANDED_ON = re.compile("PYTHONPATH|(NCCL|GLOO|UCX)_.*")
"""Variables that ranks on other hosts get as well."""
_HOST_LINE = re.compile(r"(\S+)\s+slots=([1-9]\d*)\s*(#.*)?")

Command = list[str]


def launch_commands(
    run_file: Path, place: TrainingExecution, port: int, environment: Mapping[str, str]
) -> list[Command]:
    """The commands that, started together, train the stage of a `run.json`: by hand as from a flow.

    Args:
        port: at which the ranks meet.
        environment: what Slurm has set, and what is to be set on other hosts too.

    Raises:
        ConfigError: a hostfile that cannot be, or that has too few slots; no allocation of Slurm's.
    """
    accelerator = [] if place.uses_gpu else ["DS_ACCELERATOR=cpu"]
    trainer = ["components.training", str(run_file)]
    if place.launcher == "slurm":
        return [
            [
                "env",
                *accelerator,
                f"MASTER_PORT={port}",
                *_srun(place, environment),
                sys.executable,
                "-m",
                *trainer,
            ]
        ]
    if place.launcher == "local":
        world = {"localhost": place.world_size}
        return [["env", *accelerator, *_deepspeed(world, 0, _LOOPBACK, port), *trainer]]
    world = read_hostfile(Path(str(place.hostfile)), place.world_size)
    handed_on = [
        f"{name}={value}"
        for name, value in sorted(environment.items())
        if _HANDED_ON.fullmatch(name)
    ]
    commands = []
    for number, host in enumerate(world):
        there = [
            "exec",
            "env",
            *accelerator,
            *handed_on,
            *_deepspeed(world, number, next(iter(world)), port),
            *trainer,
        ]
        commands.append(
            [
                "ssh",
                "-o",
                "BatchMode=yes",
                host,
                f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(there)}",
            ]
        )
    return commands


def master_port(place: TrainingExecution) -> int:
    """The port that is asked for, or one to try."""
    if place.master_port is not None:
        return place.master_port
    return free_port() if place.launcher == "local" else secrets.choice(_PORTS)


def read_hostfile(path: Path, world_size: int) -> dict[str, int]:
    """The hosts that are used, in their order, and how many ranks run on each: hosts are filled one after another.

    Raises:
        ConfigError: no such file, a line that cannot be, a host that is named twice, or too few slots.
    """
    form = "a line HOST slots=RANKS for every host"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"the hostfile {path} cannot be read: {error.strerror}",
            expected=form,
            fix="mend hostfile",
        ) from None
    used: dict[str, int] = {}
    slots = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _HOST_LINE.fullmatch(line.strip())
        if not match or match[1] in used or match[1].startswith("-"):
            raise ConfigError(
                f"line {number} of {path} is {line!r}",
                expected=f"{form}, each once",
                fix="mend the line",
            )
        here = min(int(match[2]), world_size - slots)
        slots += here
        if here:
            used[match[1]] = here
    if slots < world_size:
        raise ConfigError(
            f"{path} has {slots} slots and world_size is {world_size}",
            expected="a slot for every rank",
            fix=f"set world_size to {slots}, or add hosts",
        )
    return used


def _deepspeed(world: dict[str, int], node: int, address: str, port: int) -> Command:
    """DeepSpeed's launcher for one host. The `deepspeed` command would import everything once more only to start it."""
    ranks = {host: list(range(number)) for host, number in world.items()}
    encoded = base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()
    options = [
        f"--world_info={encoded}",
        f"--node_rank={node}",
        f"--master_addr={address}",
        f"--master_port={port}",
    ]
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.launch",
        *options,
        "--no_local_rank",
        "--module",
    ]


def _srun(place: TrainingExecution, environment: Mapping[str, str]) -> Command:
    if "SLURM_JOB_ID" not in environment:
        raise ConfigError(
            "launcher is slurm, and this is no allocation of Slurm's: SLURM_JOB_ID is not set",
            expected="a flow that runs inside one",
            fix=f"start it with `salloc --ntasks={place.world_size} codegen ...`, or from a script for sbatch",
        )
    return ["srun", f"--ntasks={place.world_size}", "--kill-on-bad-exit=1", "--mpi=none"]
