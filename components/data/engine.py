"""Runs independent tasks of data preparation in local processes, or on an existing Ray cluster.

A task receives and returns small JSON values; its data are in files that it publishes atomically.
So a task can run on any machine, in any order and more than once, and memory is bounded by a single
task. Limit: tasks cannot depend on each other; use two calls.

Each local worker is a `ProcessPoolExecutor` of its own: if a worker dies, the executor that breaks
identifies its task. Workers are forked from a server process that has imported the task's module,
so only the first call of a process waits for that import. Decision 0015 has the measurements.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from components.core.errors import CodegenError, ConfigError, DataError
from components.core.extras import require_extra
from components.core.host_memory import tune_malloc_thresholds
from components.data.config import DataExecution

Task = Callable[[Any], JsonValue]
"""A unit of work: takes and returns JSON. It must be importable by name, because other processes
import it."""

WorkUnit = tuple[str, JsonValue]
"""The name of a unit of work, for errors, and the argument of the task."""

_Submit = Callable[[Task, str, JsonValue], "Future[JsonValue]"]
"""Runs `_run_task` on a worker."""

_MAX_TRACEBACK_LINES = 12
_CONNECT_TIMEOUT_S = 10.0
"""Timeout of a connection to a cluster (assumption: hundreds of times a network's latency)."""
_POLL_S = 1.0
"""Interval in which a waiting thread can receive an exception that another thread raises in it."""


def run_tasks(
    task: Task,
    work: Sequence[WorkUnit],
    execution: DataExecution,
    *,
    in_threads: bool = False,
) -> Iterator[Any]:
    """Run `task` on each unit of work and yield its results in the order of completion.

    If a task fails, or the caller stops early, running tasks are stopped.

    Args:
        task: called once for each unit.
        work: largest units first, so that no worker is idle while the last unit runs.
        execution: engine and number of parallel tasks.
        in_threads: on this machine, use threads of this process. For tasks that release Python's
            lock (Arrow, hashing, copying).

    Raises:
        CodegenError: the first error that a task raised.
        DataError: a task in another process failed with another exception, whose last lines are in
            the message, or its process was killed.
        ConfigError: the Ray cluster does not exist.
    """
    tune_malloc_thresholds()
    num_workers = min(execution.num_workers, len(work))
    if execution.engine == "local" and num_workers <= 1:
        yield from (task(unit) for _, unit in work)
    elif execution.engine == "local" and in_threads:
        with ThreadPoolExecutor(num_workers) as pool:
            yield from pool.map(task, [unit for _, unit in work])
    elif work:
        with ExitStack() as stack:
            if execution.engine == "ray":
                workers = [_ray_worker(execution.ray_address, stack)] * num_workers
            else:
                workers = _local_workers(task, num_workers, stack)
            yield from _run_on_workers(task, work, workers)


def _run_on_workers(
    task: Task, work: Sequence[WorkUnit], workers: Sequence[_Submit]
) -> Iterator[Any]:
    """Keep each worker busy with a single task until all work is done."""
    remaining = iter(work)
    running: dict[Future[JsonValue], tuple[str, _Submit]] = {}

    def start_next(worker: _Submit) -> None:
        for name, unit in remaining:
            running[worker(task, name, unit)] = (name, worker)
            return

    for worker in workers:
        start_next(worker)
    while running:
        done, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            name, worker = running.pop(future)
            result = _result_of(future, name)
            start_next(worker)
            yield result


def _run_task(task: Task, name: str, unit: JsonValue) -> JsonValue:
    """Run a task in a worker. Raises only `CodegenError`s, which can be sent to any process."""
    tune_malloc_thresholds()
    try:
        return task(unit)
    except CodegenError:
        raise
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).splitlines()
        raise DataError(
            "\n    ".join(
                [f"the task {name} failed; its last lines:", *lines[-_MAX_TRACEBACK_LINES:]]
            ),
            expected="every task returns a result",
            fix="check the free memory, then run the same command again; finished tasks are kept",
        ) from None


def _result_of(future: Future[JsonValue], name: str) -> JsonValue:
    """The result of a task, or its error."""
    try:
        return future.result()
    except Exception as error:
        task_error = getattr(error, "cause", error)  # Ray wraps the error of a task.
        if isinstance(task_error, CodegenError):
            raise task_error from None
        reason = str(task_error).partition("\n")[0]
        if task_error is not error:
            raise DataError(
                f"a worker of Ray cannot run the task {name}: {reason}",
                expected="this project, in this version, on every node of the cluster",
                fix="install it on every node with its extra `ray`",
            ) from error
        raise DataError(
            f"the process of the task {name} was killed or crashed: {reason}",
            expected="every task returns a result; the kernel kills a process if memory is full",
            fix="lower data.memory_mib or data.num_workers, or free memory, then run the same "
            "command again; finished tasks are kept",
        ) from error


# -- local processes -----------------------------------------------------------------------------


def _local_workers(task: Task, num_workers: int, stack: ExitStack) -> list[_Submit]:
    """Worker processes. They exit when the stack is closed or this process ends, also if it is
    killed."""
    context = get_context("forkserver")
    context.set_forkserver_preload([task.__module__, *_main_module()])
    reader, writer = context.Pipe(duplex=False)
    stack.enter_context(reader)
    workers: list[_Submit] = []
    for _ in range(num_workers):
        executor = ProcessPoolExecutor(1, context, _start_worker, (reader, dict(os.environ)))
        workers.append(_submitter(stack.enter_context(executor)))
    stack.enter_context(writer)  # Closed first, so that the executors do not wait for tasks.
    return workers


def _main_module() -> list[str]:
    """The name of the main module if each worker imports it, as Prefect's process of a flow run."""
    spec = sys.modules["__main__"].__spec__
    return [spec.name] if spec and not spec.name.endswith("__main__") else []


def _submitter(executor: ProcessPoolExecutor) -> _Submit:
    def submit(task: Task, name: str, unit: JsonValue) -> Future[JsonValue]:
        try:
            return executor.submit(_run_task, task, name, unit)
        except BrokenProcessPool as error:  # The worker was killed between two tasks.
            future: Future[JsonValue] = Future()
            future.set_exception(error)
            return future

    return submit


def _start_worker(alive: Connection, environment: Mapping[str, str]) -> None:
    """Prepare a worker process.

    Args:
        alive: at its end, the worker exits.
        environment: of the owner now; the server process may have been started before a change.
    """
    # The owner ends the workers: a signal to the whole process group must not break a task first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    faulthandler.enable()
    threading.Thread(target=_exit_at_end, args=(alive,), daemon=True).start()


def _exit_at_end(alive: Connection) -> None:
    """Exit when the owner has closed its end of the pipe."""
    with suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)


# -- Ray -------------------------------------------------------------------------------------------


def _ray_worker(address: str | None, stack: ExitStack) -> _Submit:
    """A function that starts a Ray task on a core of the cluster. Ray repeats a task whose worker
    or node died. Tasks are cancelled when the stack is closed."""
    ray = _join_cluster(address)
    function = ray.remote(num_cpus=1)(_run_task)
    references: list[Any] = []

    def submit(task: Task, name: str, unit: JsonValue) -> Future[JsonValue]:
        references.append(function.remote(task, name, unit))
        future: Future[JsonValue] = references[-1].future()
        return future

    def cancel() -> None:
        for reference in references:
            ray.cancel(reference, force=True)  # Does nothing if the task has finished.

    stack.callback(cancel)
    return submit


def _join_cluster(address: str | None) -> Any:
    """Connect this process to the cluster, if it is not connected. Returns the package."""
    require_extra("ray", "data.engine=ray")
    try:
        if address is not None:
            _require_listener(address)
        import ray

        if not ray.is_initialized():
            # Without an address, Ray would start a cluster if there is none.
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster can be used at {address or 'the default address'}: {error}",
            expected="a running cluster that includes this machine and has this project with its "
            "extra `ray` on every node",
            fix="start it (ray start --head), set --exec data.ray_address=HOST:PORT, or use "
            "--exec data.engine=local",
        ) from error
    return ray


def _require_listener(address: str) -> None:
    """Raise OSError if no process listens at the address. Ray itself would retry for minutes
    (2.60)."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    socket.create_connection((parts.hostname, parts.port), timeout=_CONNECT_TIMEOUT_S).close()
