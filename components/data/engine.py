"""Runs independent tasks of data preparation with Daft, on this machine or on an existing Ray
cluster.

A task receives and returns small JSON values; its data are in files that it publishes atomically.
So a task can run on any machine, in any order and more than once, and memory is bounded by a single
task. Limit: tasks cannot depend on each other; use two calls.

Daft's telemetry is switched off unless the environment sets it, and its logs of exceptions in our
functions are silenced. Errors of tasks are returned as values.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import psutil
from pydantic import JsonValue

from components.core import errors
from components.core.errors import CodegenError, ConfigError, DataError
from components.core.host_memory import tune_malloc_thresholds
from components.data.config import DataExecution

os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
logging.getLogger("daft_local_execution").setLevel(logging.CRITICAL)

import daft  # noqa: E402 - reads the environment when it is imported

__all__ = ["daft", "run_tasks"]

Task = Callable[[Any], JsonValue]
"""A unit of work: takes and returns JSON. It must be importable by name, because other processes
import it."""

_WORKER_KILLED = (RuntimeError, OSError)
"""Exceptions that Daft raises after a worker was killed, when it waits for the worker or writes to
it."""
_MAX_TRACEBACK_LINES = 12
_CONNECT_TIMEOUT_S = 10.0
"""Timeout of a connection to a cluster (assumption: hundreds of times a network's latency)."""
_POLL_PARENT_S = 1.0
_POLL_WORKERS_S = 0.05


def run_tasks(
    task: Task,
    work: Sequence[JsonValue],
    execution: DataExecution,
    *,
    in_threads: bool = False,
) -> Iterator[Any]:
    """Run `task` on each unit of work and yield its results in the order of completion.

    Args:
        task: called once for each unit.
        work: largest units first, so that no worker is idle while the last unit runs.
        execution: engine and number of parallel tasks.
        in_threads: on this machine, use threads of this process. Faster for tasks that release
            Python's lock (Arrow, hashing, copying), because a process takes one to two seconds to
            start.

    Raises:
        CodegenError: the first error that a task raised.
        DataError: a task failed with another exception; the message has the last lines of its
            traceback.
        ConfigError: the Ray cluster does not exist, or this process has used the other engine.
    """
    tune_malloc_thresholds()
    if execution.engine == "ray":
        yield from _run_in_processes(task, work, execution)
    elif execution.num_workers == 1 or len(work) == 1:
        yield from map(task, work)
    elif in_threads:
        with ThreadPoolExecutor(execution.num_workers) as pool:
            yield from pool.map(task, work)
    elif work:
        yield from _run_in_processes(task, work, execution)


def _run_in_processes(
    task: Task, work: Sequence[JsonValue], execution: DataExecution
) -> Iterator[Any]:
    _select_runner(execution)
    owner = os.getpid() if execution.engine == "native" else None
    frame = daft.from_pydict({"task": [json.dumps(unit) for unit in work]})
    with TemporaryDirectory() as folder, daft.execution_config_ctx(maintain_order=False):
        keep_running = Path(folder) / "keep-running"
        keep_running.touch()
        num_workers = min(execution.num_workers, len(work))
        pool = daft.cls(_Worker, use_process=True, max_concurrency=num_workers)
        column = pool(task, str(keep_running), owner).run(daft.col("task")).alias("result")
        batches = frame.select(column).to_arrow_iter()
        try:
            for batch in batches:
                for text in batch["result"].to_pylist():
                    yield _unwrap(json.loads(text))
        except _WORKER_KILLED as error:
            raise _task_failed(str(error).splitlines()[:1]) from error
        finally:
            # Abandoning a running Daft plan crashes the process (0.7.26), so the remaining tasks
            # are skipped instead. After a worker was killed, threads of Daft still wait for the
            # other workers: exiting before them crashes too.
            keep_running.unlink()
            with suppress(*_WORKER_KILLED):
                for _ in batches:
                    pass
            while _daft_is_running():
                time.sleep(_POLL_WORKERS_S)


class _Worker:
    """A process that runs tasks and returns their errors as values."""

    def __init__(self, task: Task, keep_running: str, owner: int | None) -> None:
        """`keep_running`: file whose removal makes the worker skip tasks. `owner`: PID on this
        machine, None on a cluster."""
        tune_malloc_thresholds()
        self._task = task
        self._keep_running = Path(keep_running) if owner else None
        if owner is not None:
            threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)  # type: ignore[untyped-decorator]
    def run(self, tasks: Any) -> list[str]:
        """Run the tasks of a column. The batch size makes this a single task."""
        return [json.dumps(self._run_task(json.loads(text))) for text in tasks.to_pylist()]

    def _run_task(self, work: JsonValue) -> dict[str, JsonValue]:
        if self._keep_running and not self._keep_running.exists():
            return {"value": None}
        try:
            return {"value": self._task(work)}
        except CodegenError as error:
            parts = {"got": error.got, "expected": error.expected, "fix": error.fix}
            return {"error": type(error).__name__, **parts}
        except Exception as error:
            lines = "".join(traceback.format_exception(error)).splitlines()
            return {"traceback": list[JsonValue](lines[-_MAX_TRACEBACK_LINES:])}


def _daft_is_running() -> bool:
    """Whether a worker process of Daft, or a thread of Daft in this process, still runs."""
    if any(map(_is_worker, psutil.Process().children())):
        return True
    return any(map(_called_by_daft, sys._current_frames().values()))


def _is_worker(process: Any) -> bool:
    try:
        return any("daft" in argument for argument in process.cmdline()[1:])
    except psutil.NoSuchProcess:
        return False


def _called_by_daft(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("daft.execution"):
            return True
        frame = frame.f_back
    return False


def _exit_with_parent(parent: int) -> None:
    """Exit after the parent process was killed. Daft's workers would finish their task first."""
    while os.getppid() == parent:
        time.sleep(_POLL_PARENT_S)
    os._exit(1)


def _unwrap(result: dict[str, Any]) -> Any:
    """Return the value of a task or raise its error."""
    if "value" in result:
        return result["value"]
    if "got" in result:
        error_type = getattr(errors, result["error"], DataError)
        raise error_type(result["got"], expected=result["expected"], fix=result["fix"])
    raise _task_failed(result["traceback"])


def _task_failed(lines: Sequence[str]) -> DataError:
    return DataError(
        "\n    ".join(["a task of data preparation failed; its last lines:", *lines]),
        expected="every task returns a result",
        fix="check the free memory, then run the same command again; finished tasks are kept",
    )


def _select_runner(execution: DataExecution) -> None:
    """Select Daft's runner. Daft cannot change it later in a process: it refuses or ignores the
    change."""
    if execution.engine == "ray":
        runner = _join_cluster(execution.ray_address)
    else:
        runner = daft.runners._get_runner() or daft.set_runner_native()
    if runner.name != execution.engine:
        raise ConfigError(
            f"this process has already used the engine {runner.name}, not {execution.engine}",
            expected="a single engine of data preparation in a process",
            fix="start a new process for the other engine",
        )


def _join_cluster(address: str | None) -> Any:
    """The current runner of this process, or a runner on the cluster."""
    try:
        if address is not None:
            _require_listener(address)
        # Without an address, Ray would start a cluster if there is none.
        return daft.runners._get_runner() or daft.set_runner_ray(address or "auto")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster can be used at {address or 'the default address'}: {error}",
            expected="a running cluster that includes this machine and has this project with its "
            "extra `ray` on every node",
            fix="start it (ray start --head), set --exec data.ray_address=HOST:PORT, or use "
            "--exec data.engine=native",
        ) from error


def _require_listener(address: str) -> None:
    """Raise OSError if no process listens at the address. Ray itself would retry for minutes
    (2.60)."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    socket.create_connection((parts.hostname, parts.port), timeout=_CONNECT_TIMEOUT_S).close()
