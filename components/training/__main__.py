"""One rank of a stage: `python -m components.training FOLDER/run.json`, started by a launcher.

Everything that a rank takes from its surroundings is taken here: the launcher's variables, the thread count, the network
interface. With `--end-with-stdin` the rank ends at once when its standard input does, and stops after its step when it gets
a byte. A flow passes a pipe; however the flow ends, `kill -9` included, the system closes it, and no orphan goes on writing.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from components.training.launch.failure import report_failure, wrap_oom
from components.training.launch.rank_env import (
    RankEnv,
    membership,
    network_interface_for,
    require_size,
)
from components.training.launch.rank_supervisor import run_supervised
from components.training.preemption import install_sigterm_handler
from components.training.run_file import WORK, RunFile


def main() -> None:
    """Run this rank to the end of the stage; the exit status is 1 where it failed."""
    parser = argparse.ArgumentParser(
        prog="python -m components.training", description="One rank of a training stage."
    )
    parser.add_argument("run", type=Path, help="run.json in the folder to fill")
    parser.add_argument(
        "--end-with-stdin", action="store_true", help="end as soon as standard input is closed"
    )
    arguments = parser.parse_args()
    run_file = arguments.run.resolve()
    try:
        member = membership(os.environ)
    except ConfigError as error:
        sys.exit(f"✗ {error}")
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s rank {member.rank} %(levelname)s %(name)s: %(message)s",
    )
    work = run_file.parent / WORK
    run_supervised(
        work, member.rank, lambda: _run(run_file, member), end_with_stdin=arguments.end_with_stdin
    )


def _run(run_file: Path, member: RankEnv) -> int:
    try:
        install_sigterm_handler()
        file = _read(run_file, member.rank)
        require_size(member, file.place)
        _set_up_process(file.place, member)
        from components.training.stage import (
            run_rank,  # After the process is set up: torch reads the variables once.
        )

        run_rank(run_file.parent, file, member.rank, member.local_rank)
    except Exception as error:
        logging.getLogger(__name__).exception("rank %d failed", member.rank)
        report_failure(run_file.parent / WORK, member.rank, wrap_oom(error, member.rank))
        return 1
    return 0


def _read(run_file: Path, rank: int) -> RunFile:
    try:
        return RunFile.read(run_file)
    except FileNotFoundError:
        raise ConfigError(
            f"rank {rank} on host {socket.gethostname()} sees no {run_file}",
            expected="the folder that a flow has written run.json to, on a file system that all hosts share",
            fix="put the workspace on a file system with one path on every host, and start the ranks after the flow",
        ) from None


def _set_up_process(place: TrainingExecution, member: RankEnv) -> None:
    # DeepSpeed imports mlflow for its autotuner and torch's compiler for the Muon optimizer. Without them a rank starts in
    # 3 s instead of 6 (measured).
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's documented way to say: not importable.
    if not place.uses_gpu:
        if not place.compiled:
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = str(place.threads_per_process)
    os.environ.update(member.variables())
    if interface := network_interface_for(member.master_address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


if __name__ == "__main__":
    main()
