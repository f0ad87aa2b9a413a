"""Which rank a process is and where the ranks meet, from the variables that its launcher has set.

DeepSpeed's launcher, torchrun and Kubernetes' operators set the same five variables, which torch reads; Slurm sets its own
for every task, and they are translated here. Pure functions of the variables: the entry passes the environment and sets
what they say. Not covered: MPI's variables.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import NamedTuple

import psutil

from components.core.errors import ConfigError
from components.training.config import TrainingExecution

_SLURM = {
    "RANK": "SLURM_PROCID",
    "LOCAL_RANK": "SLURM_LOCALID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
}
_OUTSIDE_BRACKETS = re.compile(r",(?![^[]*\])")
_RANGES = re.compile(r"\[([^],-]+)[^]]*\]")


class RankEnv(NamedTuple):
    """One rank's place among all."""

    rank: int
    local_rank: int
    """Among those of its host."""
    world_size: int
    master_address: str
    master_port: int

    def variables(self) -> dict[str, str]:
        """As torch and DeepSpeed read them."""
        values = (
            self.rank,
            self.local_rank,
            self.world_size,
            self.master_address,
            self.master_port,
        )
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        return dict(zip(names, map(str, values), strict=True))


def membership(environment: Mapping[str, str]) -> RankEnv:
    """What a launcher has told this process; where `RANK` is not set, what Slurm has told its task.

    Raises:
        ConfigError: a variable is not set, or no number.
    """
    known = dict(environment)
    if "RANK" not in known and "SLURM_PROCID" in known:
        known |= {name: known[slurm] for name, slurm in _SLURM.items() if slurm in known}
        known.setdefault("MASTER_ADDR", first_host(known.get("SLURM_STEP_NODELIST", "")))
    return RankEnv(
        _number(known, "RANK"),
        _number(known, "LOCAL_RANK"),
        _number(known, "WORLD_SIZE"),
        _value(known, "MASTER_ADDR"),
        _number(known, "MASTER_PORT"),
    )


def require_size(member: RankEnv, place: TrainingExecution) -> None:
    """Check that there are as many ranks as the batch is divided over.

    Raises:
        ConfigError: there are not.
    """
    if member.world_size != place.world_size:
        raise ConfigError(
            f"{member.world_size} ranks were started (WORLD_SIZE) and world_size is {place.world_size}",
            expected="one rank for each",
            fix=f"start {place.world_size}, or set world_size to {member.world_size}",
        )


def first_host(node_list: str) -> str:
    """The first host of a list in Slurm's form, where rank 0 runs: `gpu03` of `gpu[03-05,09],login`."""
    first = _OUTSIDE_BRACKETS.split(node_list, maxsplit=1)[0]
    return _RANGES.sub(r"\1", first)


def network_interface_for(address: str) -> str | None:
    """The network interface that leads to the first rank's host; None where it cannot be told.

    gloo would take the one of the own host's name: reachable by others where all ranks are on one host, and on many systems
    the loopback where they are not.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 1))  # Nothing is sent: a datagram socket only looks up the way.
            own = probe.getsockname()[0]
    except OSError:
        return None
    names = [
        name for name, every in psutil.net_if_addrs().items() for one in every if one.address == own
    ]
    return names[0] if names else None


def _value(known: Mapping[str, str], name: str) -> str:
    if not known.get(name):
        raise ConfigError(
            f"{name} is not set",
            expected="RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or a task of srun's with MASTER_PORT",
            fix="start ranks with a launcher: torchrun --nproc-per-node NUMBER -m components.training FOLDER/run.json",
        )
    return known[name]


def _number(known: Mapping[str, str], name: str) -> int:
    value = _value(known, name)
    if not value.isdecimal():
        raise ConfigError(
            f"{name} is {value!r}", expected="a number", fix="mend what starts the ranks"
        )
    return int(value)
