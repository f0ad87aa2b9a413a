"""DeepSpeed's launcher and torchrun as local launchers: time and memory to start two gloo ranks.

    python tests/benchmarks/launchers.py [--runs 5]

The launchers alternate. The ranks import torch, join a gloo group, reduce a number and exit.
Processor time is of the launcher and its ranks; memory is the largest resident memory of the
launcher alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import psutil

from components.core.network import free_port

RANKS = 2
WORLD = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(RANKS))}).encode()).decode()


def commands(port: int) -> dict[str, Sequence[str]]:
    """The command of each launcher; the benchmark itself is the program of the ranks."""
    return {
        "deepspeed": [
            *(sys.executable, "-m", "deepspeed.launcher.launch"),
            f"--world_info={WORLD}",
            *("--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={port}"),
            *("--no_local_rank", __file__, "--rank"),
        ],
        "torchrun": [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes=1", f"--nproc-per-node={RANKS}"),
            *("--master-addr=127.0.0.1", f"--master-port={port}"),
            *(__file__, "--rank"),
        ],
        "no launcher": [sys.executable, __file__, "--rank"],
    }


def run_rank() -> None:
    """Join the other ranks and reduce a number."""
    import torch
    import torch.distributed

    if "RANK" not in os.environ:
        return
    torch.distributed.init_process_group("gloo")
    number = torch.ones(1)
    torch.distributed.all_reduce(number)
    assert int(number) == RANKS
    torch.distributed.destroy_process_group()


def measure(command: Sequence[str]) -> dict[str, float]:
    """Run a command: seconds, processor seconds and MB of the launcher."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peaks = [0.0]
    threading.Thread(target=watch, args=(process.pid, peaks), daemon=True).start()
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors.decode()
    seconds = time.perf_counter() - started
    return {"s": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "MB": peaks[0]}


def watch(pid: int, peaks: list[float]) -> None:
    """Keep the largest resident memory of a process."""
    while psutil.pid_exists(pid):
        try:
            peaks[0] = max(peaks[0], psutil.Process(pid).memory_info().rss / 1e6)
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)


def main() -> None:
    """Print the figures of each launcher, or run as a rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rank", action="store_true")
    arguments, _ = parser.parse_known_args()
    if arguments.rank:
        run_rank()
        return
    results: dict[str, list[dict[str, float]]] = {}
    for _ in range(arguments.runs):
        for name, command in commands(free_port()).items():
            results.setdefault(name, []).append(measure(command))
            print(name, results[name][-1], flush=True)
    for name, runs in results.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(name, "  ".join(f"{key} {value:.2f}" for key, value in medians.items()))


if __name__ == "__main__":
    main()
