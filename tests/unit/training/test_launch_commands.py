"""The commands that start ranks, and the launcher's variables that a rank reads."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path

import pytest

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from components.training.launch.commands import launch_commands, read_hostfile
from components.training.launch.rank_process import (
    check_world_size,
    first_slurm_host,
    network_interface_for,
    read_rank_env,
)

RUN = Path("/shared/a stage/run.json")
TORCH = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "MASTER_PORT": "20001",
}


def hostfile(folder: Path, text: str) -> Path:
    (folder / "hosts").write_text(text)
    return folder / "hosts"


def test_hosts_are_filled_in_the_order_of_the_hostfile(tmp_path: Path) -> None:
    path = hostfile(tmp_path, "# first\n\nb slots=4\na  slots=4  # the second\nc slots=4\n")
    assert list(read_hostfile(path, 12).items()) == [("b", 4), ("a", 4), ("c", 4)]
    assert list(read_hostfile(path, 6).items()) == [("b", 4), ("a", 2)]
    with pytest.raises(ConfigError, match="has 12 slots and world_size is 13") as refused:
        read_hostfile(path, 13)
    assert "set world_size to 12" in refused.value.fix


@pytest.mark.parametrize(
    "line", ["a", "a slots=0", "a slots=x", "b slots=1", "-oProxyCommand=x slots=1"]
)
def test_an_invalid_line_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="line 2 of"):
        read_hostfile(hostfile(tmp_path, f"b slots=1\n{line}\n"), 2)


def test_an_absent_hostfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_hostfile(tmp_path / "absent", 1)


def test_deepspeeds_launcher_is_started_over_ssh_on_every_host(tmp_path: Path) -> None:
    path = hostfile(tmp_path, "big slots=2\nsmall slots=1\n")
    execution = TrainingExecution(
        world_size=3, launcher="hostfile", hostfile=str(path), device="cpu"
    )
    environment = {"PYTHONPATH": "/my code", "NCCL_DEBUG": "INFO", "SECRET": "no"}
    commands = launch_commands(RUN, execution, 20_005, environment)
    assert [command[:4] for command in commands] == [
        ["ssh", "-o", "BatchMode=yes", host] for host in ("big", "small")
    ]
    for node, command in enumerate(commands):
        words = shlex.split(command[4])
        assert words[:2] == ["cd", str(Path.cwd())]
        assert {"DS_ACCELERATOR=cpu", "PYTHONPATH=/my code", "NCCL_DEBUG=INFO"} <= set(words)
        assert "SECRET" not in command[4]
        assert {f"--node_rank={node}", "--master_addr=big", "--master_port=20005"} <= set(words)
        world = next(word.partition("=")[2] for word in words if word.startswith("--world_info="))
        assert json.loads(base64.urlsafe_b64decode(world)) == {"big": [0, 1], "small": [0]}
        assert words[-2:] == ["components.training", str(RUN)]


def test_slurm_starts_a_task_per_rank_and_requires_an_allocation() -> None:
    execution = TrainingExecution(world_size=8, launcher="slurm", device="cpu")
    (command,) = launch_commands(RUN, execution, 20_005, {"SLURM_JOB_ID": "7"})
    assert command[:4] == ["env", "DS_ACCELERATOR=cpu", "MASTER_PORT=20005", "srun"]
    assert {"--ntasks=8", "--kill-on-bad-exit=1"} <= set(command)
    with pytest.raises(ConfigError, match="SLURM_JOB_ID is not set"):
        launch_commands(RUN, execution, 20_005, {})


def test_variables_of_torch_and_slurm_are_equivalent() -> None:
    assert read_rank_env(TORCH) == (3, 1, 4, "node1", 29500)
    assert read_rank_env(SLURM) == (3, 1, 4, "gpu07", 20001)
    assert read_rank_env({**SLURM, **TORCH}) == read_rank_env(TORCH), "torchrun inside a Slurm task"
    assert read_rank_env(read_rank_env(SLURM).variables()) == read_rank_env(SLURM)


@pytest.mark.parametrize("name", TORCH)
def test_an_absent_variable_or_a_variable_that_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is not set"):
        read_rank_env({key: value for key, value in TORCH.items() if key != name})
    if name != "MASTER_ADDR":
        with pytest.raises(ConfigError, match=f"{name} is 'x'"):
            read_rank_env({**TORCH, name: "x"})


def test_another_number_of_ranks_than_world_size_is_refused() -> None:
    check_world_size(read_rank_env(TORCH), TrainingExecution(world_size=4))
    with pytest.raises(ConfigError, match="4 ranks were started"):
        check_world_size(read_rank_env(TORCH), TrainingExecution(world_size=2))


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("login", "login"),
        ("a,b", "a"),
        ("gpu[07-08]", "gpu07"),
        ("gpu[003,007-009],login", "gpu003"),
        ("rack[2-3]node[10-12]", "rack2node10"),
    ],
)
def test_the_first_host_of_a_slurm_node_list(node_list: str, host: str) -> None:
    assert first_slurm_host(node_list) == host


def test_the_network_interface_of_this_host_is_its_loopback() -> None:
    assert network_interface_for("127.0.0.1") in ("lo", "lo0")
    assert network_interface_for("no.such.host.invalid") is None
