"""Slots of one shape, for a GPU: there, starting a step's kernels one by one takes longer than what they compute.

A step is one function of tensors that stay where they are: memory, the next token of every slot and its position. So it can
be recorded as a CUDA graph, once for every length that is attended over, and then it is started at once; `torch.compile`
may make its kernels before. Doing a step twice leaves what doing it once leaves, which recording relies on.

One decision: a prompt is computed once and then copied into the slot of each of its samples. It is read once for each of
them, where `cache` reads it once for all; but the shape of a step is the number of slots and a length, whatever prompts are
mixed. Slots without a sample are computed, too, and nobody looks. Not covered: prompts of a batch, which are computed one by
one as they come. Recording was never run on a GPU: none was at hand (docs/decisions/0008-sampling.md).

Shapes: S slots, T time, H heads, K head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.config import DecodeMode
from components.model.kv_cache import Prompt
from components.model.transformer import CodeGen

LENGTHS = 256
"""Slots are as long as a multiple of this, and so is what is attended over: eight shapes up to 2,048 tokens (assumption)."""
_WARM_UPS = 3
"""Steps before one is recorded, as PyTorch's documentation asks: libraries allocate what they need at their first use."""
_MOST_COMPILED = 64
"""Shapes of which kernels are kept: lengths times sizes of slots."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [S, H, T, K] both."""


class StaticKVCache:
    """Samples that are drawn together, behind the door of `cache.Slots`."""

    def __init__(
        self, model: CodeGen, num_slots: int, new_tokens: int, cache_bytes: int, steps: DecodeMode
    ) -> None:
        """At most `num_slots` slots in `cache_bytes`, each as long as a prompt and `new_tokens`; one always has room."""
        self._model, self._num_slots, self._new_tokens = model, num_slots, new_tokens
        self._cache_bytes, self._steps = cache_bytes, steps
        self._lengths: list[int] = []
        """Tokens of each sample, its prompt's included."""
        self._allocate(1)

    def __len__(self) -> int:
        """Slots in use."""
        return len(self._lengths)

    def has_room(self, prompt: Prompt) -> bool:
        """Whether a sample of this prompt can be added now; where nothing is in use, it always can."""
        return not self._lengths or (
            len(self) < self.capacity and self._needs(prompt) <= self._slot_tokens
        )

    def add(self, prompt: Prompt) -> None:
        """Take a free slot for a sample of this prompt; slots that are too short are made anew, longer."""
        if self._needs(prompt) > self._slot_tokens:
            del self._layers, self._step  # What was recorded holds memory, too.
            self._allocate(self._needs(prompt))
        row, length = self._rows[len(self)], len(prompt.tokens)
        for held, fresh in zip(self._layers, prompt.keys_and_values, strict=True):
            for held_SHTK, fresh_1HTK in zip(held, fresh, strict=True):
                held_SHTK[row, :, :length] = fresh_1HTK[0]
        self._lengths.append(length)

    def remove(self, slot: int) -> None:
        """Free a slot; the last one in use takes its number, and stays where it is."""
        last = len(self) - 1
        self._rows[slot], self._rows[last] = self._rows[last], self._rows[slot]
        self._lengths[slot] = self._lengths[last]
        self._lengths.pop()

    def decode_step(self, tokens: Sequence[int]) -> Tensor:
        """Give every slot in use its next token, and return the logits of the one after it: [slots in use, V]."""
        if not tokens:
            weight = self._model.embedding.weight
            return torch.empty(
                0, self._model.config.padded_vocab_size, device=weight.device, dtype=weight.dtype
            )
        used = self._rows[: len(tokens)]
        fed_2S = torch.zeros(
            self._fed_2S.shape, dtype=torch.long
        )  # A slot without a sample gets token 0 at position 0.
        fed_2S[:, used] = torch.tensor([list(tokens), self._lengths])
        self._fed_2S.copy_(fed_2S)
        logits_SV = self._step(_up(max(self._lengths) + 1))
        self._lengths = [length + 1 for length in self._lengths]
        return logits_SV[torch.tensor(used, device=logits_SV.device)]

    def _needs(self, prompt: Prompt) -> int:
        return min(len(prompt.tokens) + self._new_tokens, self._model.config.context_length)

    def _allocate(self, tokens: int) -> None:
        """Slots for so many tokens, as many as there is memory for."""
        config, weight = self._model.config, self._model.embedding.weight
        self._slot_tokens = _up(tokens)
        slot_bytes = (
            2 * config.num_layers * config.d_model * weight.element_size() * self._slot_tokens
        )
        self.capacity = max(1, min(self._num_slots, self._cache_bytes // slot_bytes))
        self._rows = list(range(self.capacity))
        """Where each sample lies; the rows after the last sample's are free."""
        shape = (self.capacity, config.num_heads, self._slot_tokens, config.head_dim)
        zeros = partial(torch.zeros, shape, dtype=weight.dtype, device=weight.device)
        self._layers = [(zeros(), zeros()) for _ in range(config.num_layers)]
        self._fed_2S = torch.zeros(2, self.capacity, dtype=torch.long, device=weight.device)
        kernels = _compiled() if self._steps == "compiled" else decode
        step = partial(kernels, self._model, self._layers, self._fed_2S)
        self._step = step if self._steps == "eager" else CudaGraphStep(step, weight.device)


class CudaGraphStep:
    """A step that is recorded at the first use of a length, and replayed from then on; on a CPU it is just called."""

    def __init__(self, step: Callable[[int], Tensor], device: torch.device) -> None:
        """`step` is given a length, and reads and writes tensors that stay where they are."""
        self._step, self._device = step, device
        self._replays: dict[int, Callable[[], Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        """Memory of what is computed on the way, which all lengths share: they are never replayed at once."""

    @property
    def lengths(self) -> list[int]:
        """What was recorded."""
        return list(self._replays)

    def __call__(self, length: int) -> Tensor:
        """The step's result, which the next call may overwrite."""
        if length not in self._replays:
            step = partial(self._step, length)
            self._replays[length] = self._record(step) if self._device.type == "cuda" else step
        return self._replays[length]()

    def _record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        device = self._device
        with torch.cuda.device(device):
            side, here = torch.cuda.Stream(device), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
            side.wait_stream(here)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    step()
            here.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=side):
                result = step()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return result

        return replay


def decode(model: CodeGen, layers: Layers, fed_2S: Tensor, length: int) -> Tensor:
    """The logits after the next token of every slot: [S, V].

    Args:
        layers: keys and values; those of the tokens that are fed are written to their places.
        fed_2S: the tokens, and the position of each.
        length: what is attended over; more than any position.
    """
    hidden_S1D = model.hidden(fed_2S[0, :, None], _KVView(layers, fed_2S[1], length))
    logits_SV: Tensor = model.head(hidden_S1D[:, 0])
    return logits_SV


class _KVView:
    """The first positions of all slots, as the memory of a model."""

    def __init__(self, layers: Layers, at_S: Tensor, length: int) -> None:
        self._layers, self._at_S, self._length = layers, at_S, length
        self.positions = at_S[:, None]
        self._slots_S = torch.arange(len(at_S), device=at_S.device)
        self._seen_S11T = (torch.arange(length, device=at_S.device) <= self.positions)[
            :, None, None
        ]

    def attend(
        self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor
    ) -> Tensor:
        """See `transformer.Memory`; one token of every slot."""
        keys_SHTK, values_SHTK = self._layers[layer]
        keys_SHTK[self._slots_S, :, self._at_S] = key_BHTK[:, :, 0]
        values_SHTK[self._slots_S, :, self._at_S] = value_BHTK[:, :, 0]
        reach = slice(self._length)
        return F.scaled_dot_product_attention(
            query_BHTK, keys_SHTK[:, :, reach], values_SHTK[:, :, reach], attn_mask=self._seen_S11T
        )


@cache
def _compiled() -> Callable[[CodeGen, Layers, Tensor, int], Tensor]:
    """One for all models and shapes of this process."""
    compiled: Callable[[CodeGen, Layers, Tensor, int], Tensor]
    compiled = torch.compile(  # type: ignore[call-overload]
        decode,
        fullgraph=True,
        dynamic=False,
        recompile_limit=_MOST_COMPILED,
        isolate_recompiles=True,
    )
    return compiled


def _up(tokens: int) -> int:
    return -(-tokens // LENGTHS) * LENGTHS
