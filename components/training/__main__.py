"""One rank of a stage: `python -m components.training FOLDER/run.json`, started by the DeepSpeed launcher.

Everything that a rank takes from its surroundings is taken here: the launcher's variables, the thread count, the network
interface. With `--end-with-stdin` the rank ends at once when its standard input does. A flow passes a pipe that it never
writes to; however the flow ends, `kill -9` included, the system closes the pipe, and no orphan goes on writing.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import threading
from pathlib import Path

from components.training.config import TrainingPlace
from components.training.failure import report_failure
from components.training.run import WORK, RunFile
from components.training.stopping import watch_for_sigterm


def main() -> None:
    """Run this rank to the end of the stage; the exit status is 1 where it failed."""
    parser = argparse.ArgumentParser(prog="python -m components.training", description="One rank of a training stage.")
    parser.add_argument("run", type=Path, help="run.json in the folder to fill")
    parser.add_argument("--end-with-stdin", action="store_true", help="end as soon as standard input is closed")
    arguments = parser.parse_args()
    if arguments.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")
    folder = arguments.run.resolve().parent
    try:
        watch_for_sigterm()
        file = RunFile.read(arguments.run)
        _set_up_process(file.place)
        from components.training.stage import run_rank  # After the process is set up: torch reads the variables once.

        run_rank(folder, file, rank, int(os.environ.get("LOCAL_RANK", "0")))
    except Exception as error:
        logging.getLogger(__name__).exception("rank %d failed", rank)
        report_failure(folder / WORK, rank, error)
        sys.exit(1)


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # From a thread, while others wait in a collective: nothing less ends the process.


def _set_up_process(place: TrainingPlace) -> None:
    # DeepSpeed imports mlflow for its autotuner and torch's compiler for the Muon optimizer. Without them a rank starts in
    # 3 s instead of 6 (measured).
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's documented way to say: not importable.
    if not place.uses_gpu:
        if not place.compiled:
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["OMP_NUM_THREADS"] = str(place.threads_per_process)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())


def _loopback() -> str:
    """The interface for ranks of one host. gloo would take the one of the host's name, which others may reach."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")


if __name__ == "__main__":
    main()
