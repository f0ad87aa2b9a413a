"""A rank of a stage: `python -m components.training FOLDER/run.json`, started by a launcher.

Reads and sets the environment of a rank. With `--end-with-stdin` the rank is killed when its
standard input is closed, and stops after its step when it receives a byte. A flow passes a pipe,
which closes when the flow ends, even on SIGKILL, so no orphan continues.
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
from components.training.launch.rank_process import (
    RankEnv,
    check_world_size,
    install_sigterm_handler,
    network_interface_for,
    read_rank_env,
    run_supervised,
)
from components.training.run_file import WORK_FOLDER, RunFile


def main() -> None:
    """Run this rank to the end of the stage; the exit code is 1 if it failed."""
    parser = argparse.ArgumentParser(
        prog="python -m components.training", description="Run a rank of a training stage."
    )
    parser.add_argument("run", type=Path, help="run.json in the folder of the stage")
    parser.add_argument(
        "--end-with-stdin", action="store_true", help="exit when standard input is closed"
    )
    arguments = parser.parse_args()
    run_file = arguments.run.resolve()
    try:
        rank_env = read_rank_env(os.environ)
    except ConfigError as error:
        sys.exit(f"✗ {error}")
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s rank {rank_env.rank} %(levelname)s %(name)s: %(message)s",
    )
    run_supervised(
        run_file.parent / WORK_FOLDER,
        rank_env.rank,
        lambda: _run(run_file, rank_env),
        end_with_stdin=arguments.end_with_stdin,
    )


def _run(run_file: Path, rank_env: RankEnv) -> int:
    folder = run_file.parent
    try:
        install_sigterm_handler()
        file = _read_run_file(run_file, rank_env.rank)
        check_world_size(rank_env, file.execution)
        set_up_process(file.execution, rank_env)
        # Imported after set-up, because torch reads the environment once.
        from components.training.stage import run_rank

        run_rank(folder, file, rank_env.rank, rank_env.local_rank)
    except Exception as error:
        logging.getLogger(__name__).exception("rank %d failed", rank_env.rank)
        report_failure(folder / WORK_FOLDER, rank_env.rank, wrap_oom(error, rank_env.rank))
        return 1
    return 0


def _read_run_file(run_file: Path, rank: int) -> RunFile:
    try:
        return RunFile.read(run_file)
    except FileNotFoundError:
        raise ConfigError(
            f"rank {rank} on host {socket.gethostname()} cannot find {run_file}",
            expected="the run.json of a flow, on a file system that all hosts share",
            fix="put the workspace on a file system with the same path on every host, and start "
            "the ranks after the flow",
        ) from None


def set_up_process(execution: TrainingExecution, rank_env: RankEnv) -> None:
    """Set the environment that torch and DeepSpeed read when they are imported."""
    # DeepSpeed imports mlflow for its autotuner and torch's compiler for the Muon optimizer.
    # Without them a rank starts in 3 s instead of 6 (measured).
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's way to block an import.
    if not execution.uses_gpu:
        if not execution.compiled:
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = str(execution.threads_per_process)
    os.environ.update(rank_env.variables())
    if interface := network_interface_for(rank_env.master_address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


if __name__ == "__main__":
    main()
