"""Generates completions as text from a checkpoint and its tokenizer.

The prompt is encoded exactly as given, with trailing white space, because stripping it changes
scores (docs/paper.md, section 6). The benchmark decides when a completion may stop early
(`should_stop`) and truncates it by its own rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from components.core.host_memory import free_memory_bytes
from components.model.config import DecodeMode
from components.model.generation import Completion, Request, SamplingParams, generate, pack
from components.model.huggingface import load_checkpoint
from components.tokenizer.encoder import Encoder

Key = TypeVar("Key", bound=Hashable)

CACHE_SHARE = 0.4
"""Share of the free memory for keys and values, for all processes of a device together
(assumption)."""

Precision = Literal["fp32", "bf16"]
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def device_precision(device: str) -> Precision:
    """Return the precision of weights, keys and values.

    It changes samples, so it is part of a protocol.
    """
    return "bf16" if device.startswith("cuda") else "fp32"


class TextRequest(NamedTuple, Generic[Key]):
    """A request for a completion."""

    key: Key
    """Identifies the completion for the caller."""
    prompt: str
    """If it exceeds the model's context less `max_new_tokens`, its beginning is dropped."""
    seed: int
    """From 0; equal prompts need different seeds."""
    max_new_tokens: int
    scored_from: int | None = None
    """Compute the log likelihood of the prompt's tokens from this character on; None: of no
    token."""


class TextCompletion(NamedTuple, Generic[Key]):
    """A completion, without its prompt."""

    key: Key
    text: str
    num_tokens: int
    is_finished: bool
    """Whether it ended before its token limit."""
    prompt_nats: float = 0.0
    """Sum of `-log p` over the prompt's tokens that begin at `scored_from` or later and fit the
    context."""
    num_scored: int = 0


class SamplerProtocol(Protocol):
    """The interface of `Sampler` and `SamplerPool`."""

    @property
    def context_length(self) -> int: ...

    def generate(
        self,
        requests: deque[TextRequest[Any]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        should_stop: Callable[[str], bool] | None,
        is_cancelled: Callable[[], bool] = ...,
    ) -> Iterator[TextCompletion[Any]]: ...


class Sampler(AbstractContextManager["Sampler"]):
    """Generates completions with the model of a checkpoint folder."""

    def __init__(
        self,
        checkpoint: Path,
        device: str = "cpu",
        cache_share: float = CACHE_SHARE,
        decode_mode: DecodeMode = "eager",
    ) -> None:
        """Load model and tokenizer of a folder in Hugging Face format.

        Args:
            checkpoint: the folder.
            device: PyTorch device.
            cache_share: share of the free memory for keys and values. It changes the speed only.
            decode_mode: how decoding steps run on a GPU; ignored on other devices.

        Raises:
            ArtifactError: the weights or their configuration are missing or damaged.
            DataError: the tokenizer is missing.
        """
        self._cache_share = cache_share
        self._decode_mode = decode_mode if device.startswith("cuda") else None
        self._encoder = Encoder(checkpoint)
        dtype = _DTYPES[device_precision(device)]
        self._model = load_checkpoint(checkpoint, device, dtype).eval()
        pack(self._model)
        self._encode = lru_cache(maxsize=4096)(lambda text: tuple(self._encoder.encode(text)))

    def __exit__(self, *_: object) -> None:
        """Do nothing; `SamplerPool` ends its processes."""

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its completion together."""
        return self._model.config.context_length

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
        """Generate completions for all requests, also for those that are appended meanwhile.

        A completion depends on its own request only, not on the other requests.

        Args:
            requests: requests of the same prompt must be adjacent.
            max_new_tokens: the maximum over all requests.
            temperature: applied before the nucleus; 0 is greedy decoding.
            top_p: probability mass of the nucleus, in (0, 1].
            should_stop: whether a text needs no further tokens. Called every few tokens, so a
                completion may be longer than the first text for which it is true.
            is_cancelled: called before each token; once true, generation ends without the other
                completions.

        Raises:
            ConfigError: a prompt is empty, or a number is out of range.
            EvaluationError: the model's logits are not finite.
        """
        decode = self._encoder.decode
        params = SamplingParams(
            temperature,
            top_p,
            self._encoder.num_ids,
            self._encoder.eot_id,
            None if should_stop is None else lambda tokens: should_stop(decode(tokens)),
        )
        token_requests = deque[Request[TextRequest[Key]]]()

        def encode_all() -> None:
            while requests:
                token_requests.append(self._encode_request(requests.popleft()))

        encode_all()
        completions = generate(
            self._model,
            token_requests,
            params,
            max_new_tokens=max_new_tokens,
            cache_bytes=self._cache_bytes(),
            decode_mode=self._decode_mode,
            is_cancelled=is_cancelled,
        )
        for completion in completions:
            yield self._decode_completion(completion)
            encode_all()

    def _encode_request(self, request: TextRequest[Key]) -> Request[TextRequest[Key]]:
        ids = self._encode(request.prompt)
        start = None
        if request.scored_from is not None:
            start = self._first_token_after(ids, request.prompt[: request.scored_from])
        return Request(request, ids, request.seed, request.max_new_tokens, start)

    def _first_token_after(self, ids: tuple[int, ...], text: str) -> int:
        """Return the index of the first token that begins after `text`."""
        starts = np.concatenate(([0], np.cumsum(self._encoder.token_num_bytes[list(ids)])))
        return int(np.searchsorted(starts, len(text.encode()), side="left"))

    def _decode_completion(self, completion: Completion[TextRequest[Key]]) -> TextCompletion[Key]:
        request, num_tokens = completion.key, len(completion.tokens)
        return TextCompletion(
            request.key,
            self._encoder.decode(completion.tokens),
            num_tokens,
            num_tokens < request.max_new_tokens,
            completion.prompt_nats,
            completion.num_scored,
        )

    def _cache_bytes(self) -> int:
        device = self._model.embedding.weight.device
        free = free_memory_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
        return int(self._cache_share * free)
