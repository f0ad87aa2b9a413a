"""Several samplers as processes of their own, behind the door of one: a GPU each, or a core each for a small model.

One decision: since a sample depends on its own seed and on nothing else, it does not matter which process draws it. Requests
lie in one queue, those of one prompt together, and whoever has room takes the next; a process that dies ends the draw with
an error, and what was drawn before stays drawn.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import queue
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from components.core.errors import CodegenError, EvaluationError
from components.evaluation.sampling.sampler import (
    CACHE_SHARE,
    Precision,
    Sampler,
    TextCompletion,
    TextRequest,
    precision_of,
)
from components.model.config import DecodeMode
from components.model.generation import MAX_BATCH_SLOTS
from components.model.huggingface import load_config

Key = TypeVar("Key", bound=Hashable)

SMALL_PARAMETERS = 50_000_000
"""A model below this is drawn from by a process a core: threads of one process would mostly wait for each other."""
_LOOK_EVERY_S = 1.0
_QUEUE_TIMEOUT_S = 0.001
"""A queue that has something may take a moment to say so."""
_JOIN_TIMEOUT_S = 10.0


class _Draw(NamedTuple):
    """What holds for a whole draw."""

    number: int
    """Tells it from the draws before it: a process may still be at work on the last of them."""
    num_open: int
    """Requests that a process takes at once: its share, as far as it has room for them."""
    settings: dict[str, Any]
    """Of `Sampler.draw`."""


_Task = tuple[_Draw, list[TextRequest[int]]]


class _WorkerLimits(NamedTuple):
    """What a process may use."""

    threads: int
    cache_share: float
    steps: DecodeMode


class _Failure(NamedTuple):
    """What a process could not do."""

    text: str


def devices_of(checkpoint: Path) -> list[str]:
    """Where the processes compute: every GPU, else as many cores as make sense for the size of the model.

    Raises:
        ArtifactError: the folder has no configuration of a CodeGen model.
    """
    if torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    small = load_config(checkpoint).num_parameters < SMALL_PARAMETERS
    return ["cpu"] * (torch.get_num_threads() if small else 1)


def local_precision() -> Precision:
    """In which precision this machine draws."""
    return precision_of("cuda" if torch.cuda.is_available() else "cpu")


def open_sampler(
    checkpoint: Path, steps: DecodeMode = "eager"
) -> AbstractContextManager[Sampler | SamplerPool]:
    """What draws from a checkpoint on this machine: this process, or several; on GPUs by `steps` (see `Sampler`).

    Raises:
        ArtifactError, DataError: see `Sampler`.
    """
    devices = devices_of(checkpoint)
    if len(devices) > 1:
        return SamplerPool(checkpoint, devices, steps)
    return Sampler(checkpoint, devices[0], steps=steps)


class SamplerPool(AbstractContextManager["SamplerPool"]):
    """Draws as `Sampler` does, in a process for each of `devices`."""

    def __init__(
        self, checkpoint: Path, devices: Sequence[str], steps: DecodeMode = "eager"
    ) -> None:
        """Start the processes; they load while the first requests are made. `steps`: see `Sampler`.

        Raises:
            ArtifactError: the folder has no configuration of a CodeGen model.
        """
        self.context_length = load_config(checkpoint).context_length
        context = multiprocessing.get_context("spawn")
        self._tasks: Any = context.Queue()
        self._results: Any = context.Queue()
        self._tasks.cancel_join_thread()  # What nobody will take any more must not hold up the end of this process.
        self._draws, self._numbers = itertools.count(), itertools.count()
        threads, share = (
            max(1, torch.get_num_threads() // len(devices)),
            CACHE_SHARE / max(Counter(devices).values()),
        )
        place = _WorkerLimits(threads, share, steps)
        self._processes = [
            context.Process(
                target=_serve,
                args=(checkpoint, device, place, self._tasks, self._results),
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

    def draw(
        self,
        waiting: deque[TextRequest[Key]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None = None,
    ) -> Iterator[TextCompletion[Key]]:
        """See `Sampler.draw`; `should_stop` must be a function that another process can import. One draw at a time: the next
        one may begin where this one has ended or was given up.

        Raises:
            EvaluationError: a process ended, or the model's logits are not finite.
        """
        num_open = min(MAX_BATCH_SLOTS, -(-len(waiting) // len(self._processes)))
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "should_stop": should_stop,
        }
        whole = _Draw(next(self._draws), num_open, settings)
        asked: dict[int, Key] = {}

        def hand_out() -> None:
            for _, some in groupby(
                [waiting.popleft() for _ in range(len(waiting))], key=lambda one: one.prompt
            ):
                requests: list[TextRequest[int]] = []  # Keys need not travel.
                for request in some:
                    number = next(self._numbers)
                    asked[number] = request.key
                    requests.append(TextRequest(number, *request[1:]))
                self._tasks.put((whole, requests))

        hand_out()
        while asked:
            drawn = self._next()
            if drawn.key in asked:  # Else it belongs to a draw that was given up.
                yield TextCompletion(asked.pop(drawn.key), *drawn[1:])
                hand_out()

    def _next(self) -> TextCompletion[int]:
        while True:
            with suppress(queue.Empty):
                found: TextCompletion[int] | _Failure = self._results.get(timeout=_LOOK_EVERY_S)
                if isinstance(found, _Failure):
                    raise EvaluationError(
                        f"a sampling process failed: {found.text}",
                        expected="completions",
                        fix="mend what it says, then run the same command again: it goes on from the samples that were kept",
                    )
                return found
            ended = [
                process.exitcode for process in self._processes if process.exitcode is not None
            ]
            if ended:
                raise EvaluationError(
                    f"a sampling process ended with exit code {ended[0]}",
                    expected="all of them to live until every sample is drawn; -9 often means that memory ran out",
                    fix="free memory or use fewer processes, then run the same command again: it goes on",
                )


def _serve(checkpoint: Path, device: str, place: _WorkerLimits, tasks: Any, results: Any) -> None:
    """A process: take requests as long as there is room for them, and draw."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        torch.set_num_threads(place.threads)
        sampler = Sampler(checkpoint, device, place.cache_share, place.steps)
        task: _Task | None = None
        while True:
            task = _draw(sampler, task or tasks.get(), tasks, results)
    except CodegenError as error:
        results.put(_Failure(str(error)))
    except BaseException:
        results.put(_Failure(traceback.format_exc(limit=-3)))


def _end_with_parent() -> None:
    """A parent that was killed can tell nobody to end."""
    parent = multiprocessing.parent_process()
    if parent:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _draw(sampler: Sampler, task: _Task, tasks: Any, results: Any) -> _Task | None:
    """Draw what a task asks for, and whatever of the same draw there is room for meanwhile.

    Returns:
        A task of the next draw where one was taken: its settings are others, so it waits until all of this draw is done.
    """
    whole, requests = task
    waiting, num_open = deque(requests), len(requests)
    later: _Task | None = None

    def take() -> None:
        nonlocal num_open, later
        with suppress(queue.Empty):
            while later is None and num_open < whole.num_open:
                found: _Task = tasks.get(timeout=_QUEUE_TIMEOUT_S)
                if found[0].number != whole.number:
                    later = found
                    continue
                waiting.extend(found[1])
                num_open += len(found[1])

    take()
    for drawn in sampler.draw(waiting, **whole.settings):
        results.put(drawn)
        num_open -= 1
        take()
    return later
