"""Text generation with continuous batching and top-p sampling.

When a sample ends, the next request takes its slot. A prompt is prefilled once for consecutive
requests with the same prompt.

The n-th token of a sample is drawn with the n-th number of a Philox generator keyed by the seed of
the request, and on a CPU the logits of a sample are bitwise independent of the batch (see
`kv_cache`). So neither order nor batch size nor an interruption changes a completion.

Shapes: S samples in the batch, B rows, V token ids, C candidates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from components.core.errors import ConfigError, EvaluationError
from components.model.config import DecodeMode, require_temperature
from components.model.cuda_graphs import StaticKVCache
from components.model.kv_cache import BatchedKVCache, PrefilledPrompt
from components.model.transformer import CodeGen

MAX_BATCH_SLOTS = 128
"""Maximum batch size. On two cores 256 were no faster (docs/decisions/0008-sampling.md)."""
CACHE_BYTES = 1 << 30
"""Default memory for keys and values."""
CHECK_EVERY = 8
"""New tokens of a sample between two calls of `should_stop`."""
TOP_P_CANDIDATES = 64
"""Tokens that are sorted first. Assumption: a nucleus at p 0.95 is rarely larger."""
_PACKED_ROWS = 64
"""Number of rows for which oneDNN chooses the weight order; other numbers work, too."""

Key = TypeVar("Key", bound=Hashable)


class Request(NamedTuple, Generic[Key]):
    """A request for a completion."""

    key: Key
    """Identifies the completion for the caller."""
    prompt: tuple[int, ...]
    """Token ids, not empty; only the last `context_length - max_new_tokens` are used."""
    seed: int
    """At least 0; requests with equal prompts need different seeds."""
    max_new_tokens: int
    scored_from: int | None = None
    """Index of the first prompt token whose probability is computed; None: no token."""


class Completion(NamedTuple, Generic[Key]):
    """The new token ids of a request, without the final end-of-text."""

    key: Key
    tokens: list[int]
    prompt_nats: float = 0.0
    """Sum of `-log p` over the scored prompt tokens that are in the context, without its first."""
    num_scored: int = 0


class SamplingParams(NamedTuple):
    """How tokens are sampled and when a completion ends."""

    temperature: float
    """Applied before top-p; 0: greedy decoding."""
    top_p: float
    """Probability mass of the nucleus, in (0, 1]."""
    num_ids: int
    """Only ids below this are sampled; the model's rows past them are padding."""
    eot_id: int
    """The token that ends a completion."""
    should_stop: Callable[[Sequence[int]], bool] | None = None
    """Return whether the new tokens are sufficient. Called every `CHECK_EVERY` tokens of a sample,
    so a completion may be longer than the tokens for which this first returns True."""


@dataclass
class _Sample(Generic[Key]):
    request: Request[Key]
    prompt_nats: float
    num_scored: int
    uniforms: np.ndarray
    """A number for each new token, float64 in [0, 1)."""
    new_tokens: list[int] = field(default_factory=list)

    def append(self, token: int, params: SamplingParams) -> bool:
        """Append a token unless it is the end-of-text; return whether the sample is complete."""
        if token == params.eot_id:
            return True
        self.new_tokens.append(token)
        num_new = len(self.new_tokens)
        if num_new == self.request.max_new_tokens:
            return True
        if params.should_stop is None or num_new % CHECK_EVERY:
            return False
        return params.should_stop(self.new_tokens)

    def completion(self) -> Completion[Key]:
        return Completion(self.request.key, self.new_tokens, self.prompt_nats, self.num_scored)


@torch.inference_mode()
def generate(
    model: CodeGen,
    requests: deque[Request[Key]],
    params: SamplingParams,
    *,
    max_new_tokens: int,
    num_slots: int = MAX_BATCH_SLOTS,
    cache_bytes: int = CACHE_BYTES,
    decode_mode: DecodeMode | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Completion[Key]]:
    """Generate a completion for each request, first come, first served; yield each when it ends.

    Args:
        model: in evaluation mode; call `pack` first for the best speed on a CPU.
        requests: consumed from the left; the caller may append more while iterating.
        params: apply to all requests.
        max_new_tokens: maximum over all requests; determines the size of a slot.
        num_slots: maximum batch size.
        cache_bytes: memory for keys and values; at least one sample is always generated.
        decode_mode: how a GPU runs the steps (see `cuda_graphs`); None: the KV cache for a CPU.
        is_cancelled: called before each step; once true, generation ends without the other
            completions.

    Raises:
        ConfigError: a prompt is empty, or a number is out of range.
        EvaluationError: the model's logits are not finite.
    """
    _check_params(model, params, max_new_tokens)
    cache: BatchedKVCache | StaticKVCache
    if decode_mode is None:
        cache = BatchedKVCache(model, num_slots, max_new_tokens, cache_bytes)
    else:
        cache = StaticKVCache(model, num_slots, max_new_tokens, cache_bytes, decode_mode)
    batch: list[_Sample[Key]] = []
    prompt: PrefilledPrompt | None = None
    logits_SV = cache.decode_step([])
    while (requests or batch) and not is_cancelled():
        new_logits: list[Tensor] = []
        while requests and len(batch) < cache.capacity:
            request = _fit_to_context(requests[0], model, max_new_tokens)
            if prompt is None or prompt.tokens != request.prompt:
                prompt = PrefilledPrompt(model, request.prompt)
            if not cache.has_room(prompt):
                break
            requests.popleft()
            cache.add(prompt)
            batch.append(_start_sample(model, prompt, request))
            new_logits.append(prompt.logits_1V)
        logits_SV = torch.cat((logits_SV, *new_logits))
        tokens_S = _next_tokens(logits_SV[:, : params.num_ids], batch, params)
        completions = []
        for slot in reversed(range(len(batch))):
            if batch[slot].append(tokens_S[slot], params):
                completions.append(batch[slot].completion())
                cache.remove(slot)
                batch[slot] = batch[-1]
                batch.pop()
        yield from reversed(completions)
        logits_SV = cache.decode_step([sample.new_tokens[-1] for sample in batch])


def _next_tokens(
    logits_SV: Tensor, batch: Sequence[_Sample[Key]], params: SamplingParams
) -> list[int]:
    uniforms = [sample.uniforms[len(sample.new_tokens)] for sample in batch]
    tokens: list[int] = sample_top_p(
        logits_SV,
        torch.tensor(uniforms, device=logits_SV.device),
        temperature=params.temperature,
        top_p=params.top_p,
    ).tolist()
    return tokens


def _start_sample(model: CodeGen, prompt: PrefilledPrompt, request: Request[Key]) -> _Sample[Key]:
    prompt_nats = 0.0
    num_scored = 0
    if request.scored_from is not None:
        start = max(1, request.scored_from)
        num_scored = max(0, len(request.prompt) - start)
        prompt_nats = prompt.nll_nats(model, start) if num_scored else 0.0
    generator = np.random.Generator(np.random.Philox(key=request.seed))
    return _Sample(request, prompt_nats, num_scored, generator.random(request.max_new_tokens))


def _fit_to_context(request: Request[Key], model: CodeGen, max_new_tokens: int) -> Request[Key]:
    """Check the request, and truncate its prompt to the context."""
    _require(bool(request.prompt), "an empty prompt", "at least one token")
    _require(
        0 < request.max_new_tokens <= max_new_tokens,
        f"max_new_tokens {request.max_new_tokens}",
        f"1 to {max_new_tokens}",
    )
    max_prompt_tokens = model.config.context_length - request.max_new_tokens
    num_dropped = max(0, len(request.prompt) - max_prompt_tokens)
    scored_from = None if request.scored_from is None else max(0, request.scored_from - num_dropped)
    return request._replace(prompt=tuple(request.prompt[num_dropped:]), scored_from=scored_from)


def _check_params(model: CodeGen, params: SamplingParams, max_new_tokens: int) -> None:
    context_length = model.config.context_length
    num_rows = model.config.padded_vocab_size
    _require(
        0 < max_new_tokens < context_length,
        f"max_new_tokens {max_new_tokens}",
        f"1 to {context_length - 1}",
    )
    try:
        require_temperature(params.temperature)
    except ValueError as error:
        _require(False, f"temperature {params.temperature}", str(error))
    _require(0 < params.top_p <= 1, f"top_p {params.top_p}", "a number above 0, at most 1")
    _require(
        0 < params.num_ids <= num_rows,
        f"num_ids {params.num_ids}",
        f"1 to the model's {num_rows} rows",
    )


def _require(is_valid: bool, got: str, expected: str) -> None:
    if not is_valid:
        raise ConfigError(
            f"generation got {got}", expected=expected, fix="change the sampling settings"
        )


def sample_top_p(
    logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_p: float
) -> Tensor:
    """Sample a token id per row: temperature, then top-p, then inverse transform; int64 [B].

    The nucleus is the smallest set of most probable tokens with mass `top_p`, renormalized
    (Holtzman et al., arXiv 1904.09751, section 3.1). Sorting 50,000 tokens per row would cost more
    than a small model, so a row is sorted completely only if its nucleus is larger than the
    `TOP_P_CANDIDATES` most probable tokens; the result is the same.

    Args:
        logits_BV: logits of the ids that may be sampled.
        uniforms_B: float64 in [0, 1), the only source of randomness.
        temperature: divides the logits; 0 takes the most probable token, the first of equals.
        top_p: probability mass of the nucleus, in (0, 1].

    Raises:
        EvaluationError: a logit is not finite.
    """
    p_BV = torch.softmax(logits_BV.float() / (temperature or 1.0), -1)
    if p_BV[:, 0].isnan().any():
        raise EvaluationError(
            "the model's logits are not finite",
            expected="finite logits",
            fix="check the training loss of this model for divergence",
        )
    if temperature == 0:
        return logits_BV.argmax(-1)
    if p_BV.shape[1] <= TOP_P_CANDIDATES:
        return _sample_from(*_sort_descending(p_BV), uniforms_B, top_p)[0]
    tokens_B, is_complete_B = _sample_from(*p_BV.topk(TOP_P_CANDIDATES), uniforms_B, top_p)
    rows = (~is_complete_B).nonzero()[:, 0]
    if len(rows):
        sorted_p, sorted_ids = _sort_descending(p_BV[rows])
        tokens_B[rows] = _sample_from(sorted_p, sorted_ids, uniforms_B[rows], top_p)[0]
    return tokens_B


def _sample_from(
    p_BC: Tensor, ids_BC: Tensor, uniforms_B: Tensor, top_p: float
) -> tuple[Tensor, Tensor]:
    """Sample from sorted candidates; return the ids, and whether they contain the nucleus."""
    mass_BC = p_BC.double().cumsum(-1)
    is_complete_B = mass_BC[:, -1] >= top_p
    last_B1 = (mass_BC < top_p).sum(-1, keepdim=True).clamp(max=p_BC.shape[1] - 1)
    nucleus_mass_B1 = mass_BC.gather(-1, last_B1)
    index_B1 = torch.searchsorted(mass_BC, uniforms_B[:, None] * nucleus_mass_B1, right=True)
    return ids_BC.gather(-1, index_B1.minimum(last_B1))[:, 0], is_complete_B


def _sort_descending(p_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of each row and their ids, the most probable first.

    On a CPU NumPy sorts integers ten times as fast as PyTorch sorts floats. The key of an id is the
    bit pattern of its probability, which has the same order, followed by the id.
    """
    if p_BV.device.type != "cpu":
        return torch.sort(p_BV, -1, descending=True)
    bits = p_BV.contiguous().numpy().view(np.int32).astype(np.int64)
    keys = np.sort((-bits << 32) + np.arange(bits.shape[1]), axis=-1)
    ids = torch.from_numpy(keys & 0xFFFFFFFF)
    return p_BV.gather(-1, ids), ids


class PackedLinear(nn.Module):
    """A linear layer for inference, with its weights in oneDNN's own order.

    It multiplies few rows up to twice as fast as `torch.nn.Linear`, which reorders the weights in
    each call. And the result of a row is bitwise independent of the other rows, which
    `torch.nn.Linear` does not guarantee. Both measured: docs/decisions/0008-sampling.md.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias` over the last axis."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return result


def pack(model: nn.Module) -> None:
    """Replace each linear layer on a CPU with oneDNN by a `PackedLinear`, for inference only."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.weight.device.type == "cpu":
                setattr(module, name, PackedLinear(child))
