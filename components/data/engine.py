"""The engine of data preparation: many independent tasks, run by Daft on this machine or on an existing Ray cluster.

Design decision: a task is a plain JSON value that names its input and output; what it makes goes into files that appear
whole or not at all, and what it returns is a small JSON value. So it does not matter which process or machine runs a task,
in which order tasks end, or whether one is run twice, and memory is bounded by what one task holds, whatever the size of
the corpus. Daft moves nothing but these small values. What is not covered: tasks that depend on one another, which are two
calls.

Two habits of Daft are switched off: it reports its use to its makers as soon as it is imported (an environment that already
decides it is left alone), and it logs what went wrong in our own functions; a user is to see one error, ours. Errors
therefore travel as values.
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

import daft  # noqa: E402 - after the switches

__all__ = ["daft", "run_tasks"]

Task = Callable[[Any], JsonValue]
"""Does one unit of work that a JSON value describes. Importable by name, so that another process can find it."""

_KILLED = (RuntimeError, OSError)
"""What Daft raises for a worker that was killed: it was waited for, or written to."""
_LAST_LINES = 12
_CONNECT_S = 10.0
"""Until an address of a cluster counts as dead (assumption: hundreds of times what a network needs)."""
_LOOK_FOR_PARENT_S, _LOOK_FOR_WORKERS_S = 1.0, 0.05


def run_tasks(
    task: Task, work: Sequence[JsonValue], place: DataExecution, *, in_threads: bool = False
) -> Iterator[Any]:
    """Run `task` on every unit of work, and yield what it returns, in the order in which tasks end.

    Args:
        task: run once for every unit; its module is imported where it runs.
        work: give the largest first: the last to end decides how long the rest of the machine is idle.
        place: where, and how many at a time.
        in_threads: on this machine, run in threads of this process instead of others. Worth it for what leaves Python's lock
            alone (Arrow, hashing, copying), since another process takes a second or two to start.

    Raises:
        CodegenError: the first that a task raised.
        DataError: a task failed for another reason; the last lines of its traceback are told.
        ConfigError: there is no such Ray cluster, or this process has used the other engine before.
    """
    tune_malloc_thresholds()
    if place.engine == "ray":
        yield from _run_in_processes(task, work, place)
    elif place.num_workers == 1 or len(work) == 1:
        yield from map(task, work)
    elif in_threads:
        with ThreadPoolExecutor(place.num_workers) as pool:
            yield from pool.map(task, work)
    elif work:
        yield from _run_in_processes(task, work, place)


def _run_in_processes(task: Task, work: Sequence[JsonValue], place: DataExecution) -> Iterator[Any]:
    """Run tasks with Daft, in processes of their own."""
    _select_runner(place)
    owner = os.getpid() if place.engine == "native" else None
    tasks = daft.from_pydict({"task": [json.dumps(one) for one in work]})
    with TemporaryDirectory() as folder, daft.execution_config_ctx(maintain_order=False):
        keep_running = Path(folder) / "go-on"
        keep_running.touch()
        pool = daft.cls(
            _Worker, use_process=True, max_concurrency=min(place.num_workers, len(work))
        )
        results = tasks.select(
            pool(task, str(keep_running), owner).run(daft.col("task")).alias("result")
        ).to_arrow_iter()
        try:
            for text in (text for batch in results for text in batch["result"].to_pylist()):
                yield _value_of(json.loads(text))
        except _KILLED as error:
            raise _failed(str(error).splitlines()[:1]) from error
        finally:
            # To leave a plan of Daft's half-way ends the process in a crash (0.7.26), so the rest is skipped instead. When a
            # worker was killed, threads of Daft's go on waiting for the others: to end before they do is a crash as well.
            keep_running.unlink()
            with suppress(*_KILLED):
                for _ in results:
                    pass
            while any(map(_is_worker, psutil.Process().children())) or any(
                map(_called_by_daft, sys._current_frames().values())
            ):
                time.sleep(_LOOK_FOR_WORKERS_S)


class _Worker:
    """One of the processes that run tasks. What goes wrong in a task is told as a value."""

    def __init__(self, task: Task, keep_running: str, owner: int | None) -> None:
        """`keep_running`: a file; once it is gone, tasks are skipped. `owner`: the process that has to outlive us, if here."""
        tune_malloc_thresholds()
        self._task, self._go_on = task, Path(keep_running) if owner else None
        if owner is not None:
            threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)  # type: ignore[untyped-decorator]
    def run(self, tasks: Any) -> list[str]:
        """Run the tasks of a column (one, by the size of a batch)."""
        return [json.dumps(self._run_one(json.loads(text))) for text in tasks.to_pylist()]

    def _run_one(self, work: JsonValue) -> dict[str, JsonValue]:
        if self._go_on and not self._go_on.exists():
            return {"value": None}
        try:
            return {"value": self._task(work)}
        except CodegenError as error:
            return {
                "kind": type(error).__name__,
                "got": error.got,
                "expected": error.expected,
                "fix": error.fix,
            }
        except Exception as error:
            return {
                "lines": list[JsonValue](
                    "".join(traceback.format_exception(error)).splitlines()[-_LAST_LINES:]
                )
            }


def _is_worker(process: Any) -> bool:
    """Whether a child of this process was started by Daft, and has not ended."""
    try:
        return any("daft" in part for part in process.cmdline()[1:])
    except psutil.NoSuchProcess:
        return False


def _called_by_daft(frame: FrameType | None) -> bool:
    """Whether what a thread runs is called by Daft, which starts its workers and waits for them in threads of its own."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("daft.execution"):
            return True
        frame = frame.f_back
    return False


def _end_with_parent(parent: int) -> None:
    """End this process when its parent was killed: Daft's workers would go on to the end of their task."""
    while os.getppid() == parent:
        time.sleep(_LOOK_FOR_PARENT_S)
    os._exit(1)


def _value_of(result: dict[str, Any]) -> Any:
    if "value" in result:
        return result["value"]
    if "got" in result:
        raise getattr(errors, result["kind"], DataError)(
            result["got"], expected=result["expected"], fix=result["fix"]
        )
    raise _failed(result["lines"])


def _failed(lines: Sequence[str]) -> DataError:
    return DataError(
        "\n    ".join(["a task of data preparation failed; the last lines are", *lines]),
        expected="every task to end with a result",
        fix="look for a lack of memory, then run the same command again: finished tasks are not repeated",
    )


def _select_runner(place: DataExecution) -> None:
    """Let Daft run on what the place names. A process chooses once: what it asks for later, Daft refuses or ignores."""
    if place.engine == "ray":
        chosen = _join_cluster(place.ray_address)
    else:
        chosen = daft.runners._get_runner() or daft.set_runner_native()
    if chosen.name != place.engine:
        raise ConfigError(
            f"this process is to prepare data on {place.engine}, and has done so on {chosen.name} before",
            expected="one engine in a process",
            fix="run it in a process of its own",
        )


def _join_cluster(address: str | None) -> Any:
    """The runner that this process has, or one on the cluster."""
    try:
        if address is not None:
            _require_listener(address)
        # None would start a cluster of its own where there is none.
        return daft.runners._get_runner() or daft.set_runner_ray(address or "auto")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster can be used at {address or 'the default address'}: {error}",
            expected="a running cluster whose nodes have this project and its extra `ray`, and of which this machine is one",
            fix="start it (ray start --head), name it with --exec data.ray_address=HOST:PORT, or use --exec data.engine=native",
        ) from error


def _require_listener(address: str) -> None:
    """Raise OSError where nobody listens: Ray would go on trying for minutes (2.60)."""
    place = urlsplit(address if "://" in address else f"//{address}")
    socket.create_connection((place.hostname, place.port), timeout=_CONNECT_S).close()
