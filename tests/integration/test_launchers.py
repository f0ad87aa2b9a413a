"""All launchers, and errors of ranks that die or cannot connect."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fixtures.slurm import missing_slurm, slurm_cluster
from fixtures.training import (
    EXECUTION,
    SHORT_STAGE,
    STAGE,
    processes_of_rank,
    toy_run,
    train_losses,
)

from components.core.errors import CodegenError, ConfigError, PortInUseError, TrainingError
from components.core.network import free_port
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import LOG_FILE, RESULT_FILE, StageRun

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

LONG_STAGE = STAGE.replace(steps=5_000, decay_steps=3_000)
ENDED_S = 30.0
"""Maximum time until the other ranks have exited."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    return toy_run(tmp_path_factory.mktemp("inputs"), SHORT_STAGE)


@pytest.fixture(scope="module")
def expected(run: StageRun, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return train_losses(tmp_path_factory.mktemp("local"), run, EXECUTION)


@pytest.mark.parametrize("killed", ["rank", "supervisor"])
def test_a_killed_rank_is_named_and_the_other_ranks_exit(
    killed: str, run: StageRun, tmp_path: Path
) -> None:
    long = run.replace(config=LONG_STAGE)
    killed_at = 0.0

    def kill(metrics: StepMetrics) -> None:
        nonlocal killed_at
        if metrics.step == 3:
            supervisor, rank = processes_of_rank(tmp_path, 1)
            (rank if killed == "rank" else supervisor).kill()
            killed_at = time.monotonic()

    with pytest.raises(TrainingError) as raised:
        train_stage(tmp_path, long, EXECUTION, kill)
    assert killed_at
    assert time.monotonic() - killed_at < ENDED_S
    assert raised.value.got == f"rank 1 on host {socket.gethostname()} was killed by SIGKILL"
    assert not processes_of_rank(tmp_path, 0)
    assert not processes_of_rank(tmp_path, 1)


def test_a_port_in_use_is_named(run: StageRun, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        message = rf"port {port} of 127\.0\.0\.1 is in use"
        with pytest.raises(PortInUseError, match=message) as refused:
            train_stage(tmp_path, run, EXECUTION.replace(master_port=port), lambda _: None)
    assert "training.master_port" in refused.value.fix


def torchrun(folder: Path, ranks: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={ranks}",
        f"--master-port={free_port()}",
    ]
    with (folder / "torchrun.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "-m", "components.training", str(folder / "run.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def train_with_torchrun(folder: Path, run: StageRun, ranks: int) -> list[float]:
    """The losses of a stage that waits for ranks of torchrun."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        while not (folder / "run.json").exists():
            time.sleep(0.05)
        started.append(torchrun(folder, ranks))

    starter = threading.Thread(target=start)
    starter.start()
    try:
        return train_losses(folder, run, EXECUTION.replace(launcher="environment"))
    finally:
        starter.join()
        started[0].wait()


def test_ranks_of_torchrun_end_with_the_same_bits(
    run: StageRun, expected: list[float], tmp_path: Path
) -> None:
    assert train_with_torchrun(tmp_path, run, ranks=2) == expected
    assert (tmp_path / RESULT_FILE).exists()


def test_another_number_of_ranks_than_world_size_is_refused(run: StageRun, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"1 ranks were started \(WORLD_SIZE\) and world_size is 2"
    ):
        train_with_torchrun(tmp_path, run, ranks=1)


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An sshd of this user on a free port, and an `ssh` that connects to it."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    client = shutil.which("ssh")
    if not (server and client):
        pytest.skip("no ssh or no sshd: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    keys = tmp_path / "ssh"
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True
        )
    (keys / "client").write_text(
        f"Host *\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {keys}/user\n  IdentitiesOnly yes\n"
        f"  StrictHostKeyChecking no\n  UserKnownHostsFile {keys}/known\n  LogLevel ERROR\n"
    )
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {client} -F {keys}/client "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    options = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": keys / "host", "PidFile": "none",
        "AuthorizedKeysFile": keys / "user.pub", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    (keys / "server").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    with subprocess.Popen(
        [server, "-D", "-e", "-f", str(keys / "server")], stderr=subprocess.DEVNULL
    ) as running:
        try:
            while subprocess.run(
                ["ssh", "localhost", "true"], capture_output=True, check=False
            ).returncode:
                assert running.poll() is None, "sshd does not run"
            yield
        finally:
            running.terminate()


@pytest.mark.usefixtures("sshd")
def test_two_hosts_of_a_hostfile_give_the_same_bits(
    run: StageRun, expected: list[float], tmp_path: Path
) -> None:
    assert train_losses(tmp_path / "stage", run, over_ssh(tmp_path)) == expected
    log = (tmp_path / "stage" / LOG_FILE).read_text()
    assert "nnodes=2, num_local_procs=1, node_rank=0" in log
    assert "nnodes=2, num_local_procs=1, node_rank=1" in log


@pytest.mark.usefixtures("sshd")
def test_a_rank_on_another_host_is_named_and_ranks_end_with_the_flow(
    run: StageRun, tmp_path: Path
) -> None:
    class Cancelled(BaseException):
        pass

    folder = tmp_path / "stage"
    execution = over_ssh(tmp_path)
    long = run.replace(config=LONG_STAGE)

    def kill(metrics: StepMetrics) -> None:
        if metrics.step == 2:
            processes_of_rank(folder, 1)[-1].kill()

    def cancel(metrics: StepMetrics) -> None:
        raise Cancelled

    with pytest.raises(TrainingError, match=r"rank 1 on host .* was killed by SIGKILL"):
        train_stage(folder, long, execution, kill)
    assert not processes_of_rank(folder, 0)
    with pytest.raises(Cancelled):
        train_stage(folder, long, execution, cancel)
    _, alive = psutil.wait_procs(
        processes_of_rank(folder, 0) + processes_of_rank(folder, 1), timeout=ENDED_S
    )
    assert not alive


@pytest.mark.usefixtures("sshd")
def test_a_host_without_the_shared_folder_is_named(run: StageRun, tmp_path: Path) -> None:
    """The ranks of the second host get another path."""
    execution = over_ssh(tmp_path)
    wrapper = tmp_path / "bin" / "ssh"
    replaced = f'"$(echo "$4" | sed s,{tmp_path}/stage,/absent,g)"'
    condition = f'$3" = localhost ] && set -- "$1" "$2" "$3" {replaced}'
    wrapper.write_text(wrapper.read_text().replace("exec", f'[ "{condition}\nexec'))
    message = r"rank 1 on host .* cannot find /absent/run\.json"
    with pytest.raises(CodegenError, match=message) as raised:
        train_stage(tmp_path / "stage", run, execution, lambda _: None)
    assert "file system that all hosts share" in raised.value.expected
    assert not Path("/absent").exists()


def over_ssh(folder: Path) -> TrainingExecution:
    (folder / "hosts").write_text(
        "# two names of this host\n127.0.0.1 slots=1\nlocalhost slots=1\n"
    )
    return EXECUTION.replace(launcher="hostfile", hostfile=str(folder / "hosts"))


@pytest.fixture
def allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a flow inside `salloc --ntasks=2`."""
    if reason := missing_slurm():
        pytest.skip(reason)
    with slurm_cluster(tmp_path / "slurm") as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        salloc = subprocess.run(
            ["salloc", "--no-shell", "--ntasks=2"], stderr=subprocess.PIPE, text=True, check=True
        ).stderr
        job = next(word for word in salloc.split() if word.isdecimal())
        monkeypatch.setenv("SLURM_JOB_ID", job)
        yield
        subprocess.run(["scancel", job], check=True)


@pytest.mark.usefixtures("allocation")
def test_slurm_tasks_end_with_the_same_bits_and_a_killed_task_is_named(
    run: StageRun, expected: list[float], tmp_path: Path
) -> None:
    execution = EXECUTION.replace(launcher="slurm")
    assert train_losses(tmp_path / "uninterrupted", run, execution) == expected

    def kill(metrics: StepMetrics) -> None:
        if metrics.step == 2:
            processes_of_rank(tmp_path / "killed", 1)[-1].kill()

    long = run.replace(config=LONG_STAGE)
    with pytest.raises(TrainingError, match=r"rank 1 on host .* was killed by SIGKILL"):
        train_stage(tmp_path / "killed", long, execution, kill)
    assert not processes_of_rank(tmp_path / "killed", 0)
