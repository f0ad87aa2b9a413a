"""Samplers in processes of their own, with the interface of `Sampler`.

A sample depends on its own seed only, so any process may generate it. Requests wait in a shared
queue, those of a prompt together, and a process with free slots takes the next. If a process dies,
generation ends with an error. If a call is cancelled or closed, its samples end before their next
token.
"""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import traceback
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from components.core.errors import CodegenError, EvaluationError
from components.core.processes import exit_with_parent
from components.evaluation.sampling.sampler import (
    CACHE_SHARE,
    Precision,
    Sampler,
    TextCompletion,
    TextRequest,
    device_precision,
)
from components.model.config import DecodeMode
from components.model.generation import MAX_BATCH_SLOTS
from components.model.huggingface import load_config

Key = TypeVar("Key", bound=Hashable)

SMALL_PARAMETERS = 50_000_000
"""A model below this size gets a process per core: threads of a process would mostly wait for
each other."""
_POLL_INTERVAL_S = 0.2
"""A process may have died or the call may have been cancelled (assumption: soon enough)."""
_QUEUE_TIMEOUT_S = 0.001
"""A filled queue may take a moment to return an item."""
_JOIN_TIMEOUT_S = 10.0


class _Batch(NamedTuple):
    """Settings of a call of `SamplerPool.generate`."""

    number: int
    """Identifies the call: a process may still work on the previous call."""
    max_open: int
    """Most requests that a process takes at once: its share, up to its number of slots."""
    settings: dict[str, Any]
    """Arguments of `Sampler.generate`."""


_Task = tuple[_Batch, list[TextRequest[int]]]


class _WorkerLimits(NamedTuple):
    """Resources of a process."""

    num_threads: int
    cache_share: float
    decode_mode: DecodeMode


class _Failure(NamedTuple):
    """The error of a process."""

    message: str


def sampling_devices(checkpoint: Path) -> list[str]:
    """Return a device per process: every GPU, else some CPU cores.

    Raises:
        ArtifactError: the folder has no configuration of a CodeGen model.
    """
    if torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    is_small = load_config(checkpoint).num_parameters < SMALL_PARAMETERS
    return ["cpu"] * (torch.get_num_threads() if is_small else 1)


def local_precision() -> Precision:
    """Return the precision of samples on this machine."""
    return device_precision("cuda" if torch.cuda.is_available() else "cpu")


def open_sampler(
    checkpoint: Path, decode_mode: DecodeMode = "eager"
) -> AbstractContextManager[Sampler | SamplerPool]:
    """Open a sampler in this process or several processes, depending on the machine.

    Raises:
        ArtifactError, DataError: see `Sampler`.
    """
    devices = sampling_devices(checkpoint)
    if len(devices) > 1:
        return SamplerPool(checkpoint, devices, decode_mode)
    return Sampler(checkpoint, devices[0], decode_mode=decode_mode)


class SamplerPool(AbstractContextManager["SamplerPool"]):
    """Generates completions as `Sampler` does, in a process per device."""

    def __init__(
        self, checkpoint: Path, devices: Sequence[str], decode_mode: DecodeMode = "eager"
    ) -> None:
        """Start the processes; they load the model while the first requests are prepared.

        See `Sampler`.

        Raises:
            ArtifactError: the folder has no configuration of a CodeGen model.
        """
        self.context_length = load_config(checkpoint).context_length
        context = multiprocessing.get_context("spawn")
        self._tasks: Any = context.Queue()
        self._results: Any = context.Queue()
        self._tasks.cancel_join_thread()  # unread tasks must not delay the exit of this process
        self._last_ended: Any = context.Value("q", -1, lock=False)  # Number of a batch.
        self._batch_numbers = itertools.count()
        self._request_numbers = itertools.count()
        num_threads = max(1, torch.get_num_threads() // len(devices))
        cache_share = CACHE_SHARE / max(Counter(devices).values())
        limits = _WorkerLimits(num_threads, cache_share, decode_mode)
        self._processes = [
            context.Process(
                target=_run_process,
                args=(checkpoint, device, limits, self._tasks, self._results, self._last_ended),
                daemon=True,
            )
            for device in devices
        ]
        for process in self._processes:
            process.start()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(_JOIN_TIMEOUT_S)

    def generate(
        self,
        requests: deque[TextRequest[Key]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[TextCompletion[Key]]:
        """Generate completions; see `Sampler.generate`.

        `should_stop` must be importable by another process. A call may start when the previous call
        ended or was closed.

        Raises:
            EvaluationError: a process ended, or the model's logits are not finite.
        """
        max_open = min(MAX_BATCH_SLOTS, -(-len(requests) // len(self._processes)))
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "should_stop": should_stop,
        }
        batch = _Batch(next(self._batch_numbers), max_open, settings)
        open_keys: dict[int, Key] = {}

        def submit_all() -> None:
            new_requests = [requests.popleft() for _ in range(len(requests))]
            for _, same_prompt in groupby(new_requests, key=lambda request: request.prompt):
                numbered: list[TextRequest[int]] = []  # keys stay in this process
                for request in same_prompt:
                    number = next(self._request_numbers)
                    open_keys[number] = request.key
                    numbered.append(TextRequest(number, *request[1:]))
                self._tasks.put((batch, numbered))

        try:
            submit_all()
            while open_keys and (completion := self._next_completion(is_cancelled)):
                if completion.key in open_keys:  # else it belongs to a closed call
                    yield TextCompletion(open_keys.pop(completion.key), *completion[1:])
                    submit_all()
        finally:
            self._last_ended.value = batch.number

    def _next_completion(self, is_cancelled: Callable[[], bool]) -> TextCompletion[int] | None:
        """Wait for a completion; return None if the call is cancelled."""
        while not is_cancelled():
            with suppress(queue.Empty):
                result: TextCompletion[int] | _Failure = self._results.get(timeout=_POLL_INTERVAL_S)
                if isinstance(result, _Failure):
                    raise EvaluationError(
                        f"a sampling process failed: {result.message}",
                        expected="completions",
                        fix="correct the cause, then run the same command again to resume from "
                        "the stored samples",
                    )
                return result
            exit_codes = [
                process.exitcode for process in self._processes if process.exitcode is not None
            ]
            if exit_codes:
                raise EvaluationError(
                    f"a sampling process ended with exit code {exit_codes[0]}",
                    expected="all processes to live until every sample is generated; -9 often "
                    "means out of memory",
                    fix="free memory or use fewer processes, then run the same command again to "
                    "resume",
                )
        return None


def _run_process(
    checkpoint: Path, device: str, limits: _WorkerLimits, tasks: Any, results: Any, last_ended: Any
) -> None:
    """Main function of a process: take tasks and generate completions."""
    exit_with_parent()
    try:
        torch.set_num_threads(limits.num_threads)
        sampler = Sampler(checkpoint, device, limits.cache_share, limits.decode_mode)
        task: _Task | None = None
        while True:
            task = _run_batch(sampler, task or tasks.get(), tasks, results, last_ended)
    except CodegenError as error:
        results.put(_Failure(str(error)))
    except BaseException:
        results.put(_Failure(traceback.format_exc(limit=-3)))


def _run_batch(
    sampler: Sampler, task: _Task, tasks: Any, results: Any, last_ended: Any
) -> _Task | None:
    """Generate the completions of a task, and of more tasks of its batch while slots are free; end
    early if the batch has ended.

    Returns:
        A task of the next batch if it was taken: its settings differ, so it waits until this batch
            is done.
    """
    batch, task_requests = task
    requests, num_open = deque(task_requests), len(task_requests)
    next_task: _Task | None = None

    def take_tasks() -> None:
        nonlocal num_open, next_task
        with suppress(queue.Empty):
            while next_task is None and num_open < batch.max_open:
                other: _Task = tasks.get(timeout=_QUEUE_TIMEOUT_S)
                if other[0].number != batch.number:
                    next_task = other
                    continue
                requests.extend(other[1])
                num_open += len(other[1])

    take_tasks()
    completions = sampler.generate(
        requests, **batch.settings, is_cancelled=lambda: last_ended.value >= batch.number
    )
    for completion in completions:
        results.put(completion)
        num_open -= 1
        take_tasks()
    return next_task
