"""Completions as text: a checkpoint and its own tokenizer behind one door that the benchmarks draw through.

One decision: the prompt is encoded exactly as it is given, trailing white space included, since stripping it changes scores
(docs/paper.md, section 6). When a completion is useless from some point on is the benchmark's affair: it says so by
`should_stop`, and truncates by its own rules. Not covered: several checkpoints at once, several devices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from components.core.host_memory import free_memory_bytes
from components.model.config import DecodeMode
from components.model.generation import Completion, Request, SamplingParams, generate, pack
from components.model.huggingface import load_checkpoint
from components.tokenizer.encoder import Encoder

Key = TypeVar("Key", bound=Hashable)

CACHE_SHARE = 0.4
"""Of the memory that may still be taken, for all processes that share it (assumption)."""


Precision = Literal["fp32", "bf16"]
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def precision_of(device: str) -> Precision:
    """Of weights, keys and values. Samples of another precision are other samples, so it is part of a protocol."""
    return "bf16" if device.startswith("cuda") else "fp32"


class TextRequest(NamedTuple, Generic[Key]):
    """One completion to be drawn."""

    key: Key
    """What the caller knows it by."""
    prompt: str
    """Where it is longer than the model's context less `max_new_tokens`, its beginning is not read."""
    seed: int
    """From 0; equal prompts want different seeds."""
    max_new_tokens: int
    scored_from: int | None = None
    """The character of the prompt from which on the probability of its tokens is wanted; none: not at all."""


class TextCompletion(NamedTuple, Generic[Key]):
    """A completion, without its prompt."""

    key: Key
    text: str
    num_tokens: int
    ended: bool
    """Whether it ended before the most tokens it could have."""
    prompt_nats: float = 0.0
    """Sum of `-log p` over the tokens that begin at `scored_from` or after it, of those that were read."""
    num_scored: int = 0


class Sampler(AbstractContextManager["Sampler"]):
    """Draws completions from the model of a checkpoint folder."""

    def __init__(
        self,
        checkpoint: Path,
        device: str = "cpu",
        cache_share: float = CACHE_SHARE,
        steps: DecodeMode = "eager",
    ) -> None:
        """Load the model and the tokenizer of a folder in Hugging Face's format: ours, or a released CodeGen.

        Args:
            checkpoint: the folder.
            device: where it is computed.
            cache_share: of the memory that may still be taken, for keys and values. It changes the speed and nothing else.
            steps: how steps are run on a GPU; nothing elsewhere.

        Raises:
            ArtifactError: the weights or their configuration are missing or damaged.
            DataError: there is no tokenizer.
        """
        self._cache_share, self._steps = cache_share, steps if device.startswith("cuda") else None
        self._encoder = Encoder(checkpoint)
        self._model = load_checkpoint(checkpoint).eval().to(device, _DTYPES[precision_of(device)])
        pack(self._model)
        self._encode = lru_cache(maxsize=4096)(lambda text: tuple(self._encoder.encode(text)))

    def __exit__(self, *_: object) -> None:
        """Nothing is to be closed; `sampler_pool` has more to do here."""

    @property
    def context_length(self) -> int:
        """The most tokens of a prompt and its completion together."""
        return self._model.config.context_length

    def draw(
        self,
        waiting: deque[TextRequest[Key]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None = None,
    ) -> Iterator[TextCompletion[Key]]:
        """Draw all that waits, and what is appended meanwhile; equal requests give equal completions, in any company.

        Args:
            waiting: requests of the same prompt are to stand side by side.
            max_new_tokens: the most of any request.
            temperature: applied before the nucleus; 0: the likeliest token, always.
            top_p: mass of the nucleus, in (0, 1].
            should_stop: given the text drawn so far, whether the rest is of no use. Asked every few tokens, so a
                completion may be longer than the text for which this first held.

        Raises:
            ConfigError: a prompt is empty, or a number is out of its range.
            EvaluationError: the model's logits are not finite.
        """
        decode, tokens = self._encoder.decode, deque[Request[TextRequest[Key]]]()
        stops = (
            None if should_stop is None else (lambda new_tokens: should_stop(decode(new_tokens)))
        )
        rules = SamplingParams(
            temperature, top_p, self._encoder.num_ids, self._encoder.eot_id, stops
        )

        def encode_all() -> None:
            tokens.extend(self._encoded(waiting.popleft()) for _ in range(len(waiting)))

        encode_all()
        room = {"max_new_tokens": max_new_tokens, "cache_bytes": self._cache_bytes()}
        for drawn in generate(self._model, tokens, rules, **room, decode_mode=self._steps):
            yield self._as_text(drawn)
            encode_all()

    def _encoded(self, request: TextRequest[Key]) -> Request[TextRequest[Key]]:
        ids = self._encode(request.prompt)
        start = (
            None
            if request.scored_from is None
            else self._token_at(ids, request.prompt[: request.scored_from])
        )
        return Request(request, ids, request.seed, request.max_new_tokens, start)

    def _token_at(self, ids: tuple[int, ...], before: str) -> int:
        """The index of the first token that begins after the text `before`."""
        starts = np.concatenate(([0], np.cumsum(self._encoder.token_num_bytes[list(ids)])))
        return int(np.searchsorted(starts, len(before.encode()), side="left"))

    def _as_text(self, drawn: Completion[TextRequest[Key]]) -> TextCompletion[Key]:
        request, num_tokens = drawn.key, len(drawn.tokens)
        return TextCompletion(
            request.key,
            self._encoder.decode(drawn.tokens),
            num_tokens,
            num_tokens < request.max_new_tokens,
            drawn.prompt_nats,
            drawn.num_scored,
        )

    def _cache_bytes(self) -> int:
        device = self._model.embedding.weight.device
        free = free_memory_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
        return int(self._cache_share * free)
