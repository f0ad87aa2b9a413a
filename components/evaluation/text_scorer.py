"""Log likelihood of token sequences on the devices of training: a process per GPU, or this process.

A process scores the next sequences as soon as it is free. Every value is computed from its own
sequences and returned in their order, so results do not depend on the number of processes.

Shapes: B sequences, T tokens of a sequence, N predicted tokens.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from components.core.errors import EvaluationError
from components.core.processes import exit_with_parent
from components.model.config import Dtype
from components.model.huggingface import load_checkpoint, load_config
from components.model.huggingface.checkpoint_writer import TORCH_DTYPES
from components.model.loss import token_losses
from components.model.transformer import CodeGen


class TokenBatch(NamedTuple):
    """Sequences to score."""

    tokens: npt.NDArray[np.integer]
    """[B, T]."""
    start: int
    """The first scored position, at least 1; earlier tokens are given."""


class TextScorer(Protocol):
    """Scores token sequences with a model."""

    @property
    def context_length(self) -> int: ...

    def nats(self, batches: Iterable[TokenBatch]) -> Iterator[float]:
        """Yield the sum of `-log p` over the scored tokens of each batch, in order.

        Raises:
            ArtifactError: the checkpoint is damaged.
            EvaluationError: a process ended.
        """
        ...


def scoring_devices(training_device: str, num_ranks: int) -> list[str]:
    """Return the training devices of this machine, with a model each: GPUs, otherwise the CPU.

    A single process uses all CPU cores, since it needs the model in memory once.

    Args:
        training_device: auto, cpu or cuda.
        num_ranks: ranks of training, each with a GPU.
    """
    if training_device == "cpu" or not torch.cuda.is_available():
        return ["cpu"]
    return [f"cuda:{number}" for number in range(min(num_ranks, torch.cuda.device_count()))]


def scoring_precision(training_precision: str, device: str) -> Dtype:
    """Return the precision of weights and products; for auto, bf16 on a GPU and fp32 on a CPU.

    It changes bits per byte, so it is part of their protocol.
    """
    if training_precision == "auto":
        return Dtype.bf16 if device.startswith("cuda") else Dtype.fp32
    return Dtype(training_precision)


def open_scorer(
    checkpoint: Path, devices: Sequence[str], precision: Dtype
) -> AbstractContextManager[TextScorer]:
    """Open a scorer: in this process for a single CPU, otherwise in a process per device.

    A process for each GPU, also for the only one, returns its memory when it ends.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    if list(devices) == ["cpu"]:
        return ModelScorer(load_checkpoint(checkpoint, "cpu", TORCH_DTYPES[precision]).eval())
    return ScorerPool(checkpoint, devices, precision)


class ModelScorer(AbstractContextManager["ModelScorer"]):
    """Scores in this process, on the device of the model."""

    def __init__(self, model: CodeGen) -> None:
        self._model = model
        self.context_length = model.config.context_length

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def nats(self, batches: Iterable[TokenBatch]) -> Iterator[float]:
        """See `TextScorer`."""
        return (_nats(self._model, batch) for batch in batches)


class ScorerPool(AbstractContextManager["ScorerPool"]):
    """Scores in a process per device, each with the model."""

    def __init__(self, checkpoint: Path, devices: Sequence[str], precision: Dtype) -> None:
        """Prepare the processes, which start and load the model with the first batches.

        Raises:
            ArtifactError: the folder has no configuration of a CodeGen model.
        """
        self.context_length = load_config(checkpoint).context_length
        context = multiprocessing.get_context("spawn")
        device_queue = context.Queue()
        for device in devices:
            device_queue.put(device)
        num_threads = max(1, torch.get_num_threads() // len(devices))
        self._executor = ProcessPoolExecutor(
            len(devices),
            mp_context=context,
            initializer=_initialize_process,
            initargs=(checkpoint, device_queue, precision, num_threads),
        )

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def nats(self, batches: Iterable[TokenBatch]) -> Iterator[float]:
        """See `TextScorer`."""
        try:
            yield from self._executor.map(_nats_in_process, batches)
        except BrokenProcessPool as error:
            raise EvaluationError(
                "a process that scores text ended",
                expected="all processes to live until every sequence is scored",
                fix="free memory, or use fewer GPUs with a smaller training.world_size, then run "
                "the same command again",
            ) from error


def _nats(model: CodeGen, batch: TokenBatch) -> float:
    with torch.inference_mode():
        tokens_BT = torch.from_numpy(batch.tokens.astype(np.int64)).to(model.head.weight.device)
        hidden_ND = model.hidden(tokens_BT[:, :-1])[:, batch.start - 1 :].flatten(0, 1)
        targets_N = tokens_BT[:, batch.start :].flatten()
        losses_N = token_losses(hidden_ND, model.head.weight, model.head.bias, targets_N)
        return float(losses_N.double().sum())


class _ProcessState(NamedTuple):
    """What a process needs to load its model."""

    checkpoint: Path
    device: str
    precision: Dtype


_process_state: _ProcessState
_process_model: CodeGen | None = None


def _initialize_process(checkpoint: Path, devices: Any, precision: Dtype, num_threads: int) -> None:
    exit_with_parent()
    torch.set_num_threads(num_threads)
    global _process_state  # noqa: PLW0603 - a process has one device
    _process_state = _ProcessState(checkpoint, devices.get(), precision)


def _nats_in_process(batch: TokenBatch) -> float:
    global _process_model  # noqa: PLW0603 - loaded once per process
    if _process_model is None:  # Not in the initializer, whose errors would be lost.
        checkpoint, device, precision = _process_state
        _process_model = load_checkpoint(checkpoint, device, TORCH_DTYPES[precision]).eval()
    return _nats(_process_model, batch)
