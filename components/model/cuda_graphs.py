"""The KV cache for a GPU: slots of a fixed shape, decoded with CUDA graphs.

On a GPU, launching the kernels of a small step takes longer than running them. A decode step here
is a function of tensors at fixed addresses, without side effects that a repetition changes. So it
can be recorded as a CUDA graph, once per attended length, and replayed; `torch.compile` may
generate its kernels. Recording has never run on a GPU, as no GPU was available
(docs/decisions/0008-sampling.md).

A prompt is prefilled separately and copied into the slot of each of its samples, so the shape of a
step depends only on the number of slots and a length. Unused slots are computed and ignored.

Shapes: B = S slots, T time, H heads, K head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.config import DecodeMode
from components.model.kv_cache import PrefilledPrompt, kv_token_bytes, no_logits, round_up
from components.model.transformer import CodeGen

LENGTH_MULTIPLE = 256
"""Slot lengths and attended lengths are multiples of this: eight shapes up to 2,048 tokens
(assumption)."""
_WARM_UP_STEPS = 3
"""Steps before recording, as in PyTorch's documentation: libraries allocate at their first use."""
_MAX_COMPILED_SHAPES = 64
"""Shapes for which compiled kernels are cached: lengths times numbers of slots."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [S, H, T, K] both."""


class StaticKVCache:
    """The KV cache of samples that are generated together; same methods as `BatchedKVCache`."""

    def __init__(
        self,
        model: CodeGen,
        num_slots: int,
        new_tokens: int,
        cache_bytes: int,
        decode_mode: DecodeMode,
    ) -> None:
        """Allocate at most `num_slots` slots in `cache_bytes`, but at least 1.

        A slot is as long as a prompt and `new_tokens` tokens.
        """
        self._model = model
        self._max_slots = num_slots
        self._new_tokens = new_tokens
        self._cache_bytes = cache_bytes
        self._decode_mode = decode_mode
        self._lengths: list[int] = []
        """Tokens of each sample, including its prompt."""
        self._allocate(1)

    def __len__(self) -> int:
        """Slots in use."""
        return len(self._lengths)

    def has_room(self, prompt: PrefilledPrompt) -> bool:
        """Whether a sample of this prompt fits now; it always fits into an empty cache."""
        if not self._lengths:
            return True
        return len(self) < self.capacity and self._num_tokens(prompt) <= self._slot_tokens

    def add(self, prompt: PrefilledPrompt) -> None:
        """Assign a free slot to a sample of this prompt; reallocate if the slots are too short."""
        if self._num_tokens(prompt) > self._slot_tokens:
            del self._layers, self._step  # Free the memory of the recorded graphs, too.
            self._allocate(self._num_tokens(prompt))
        row = self._rows[len(self)]
        length = len(prompt.tokens)
        for (keys_SHTK, values_SHTK), (key_1HTK, value_1HTK) in zip(
            self._layers, prompt.keys_and_values, strict=True
        ):
            keys_SHTK[row, :, :length] = key_1HTK[0]
            values_SHTK[row, :, :length] = value_1HTK[0]
        self._lengths.append(length)

    def remove(self, slot: int) -> None:
        """Free a slot; the last slot in use takes its number and keeps its memory."""
        last = len(self) - 1
        self._rows[slot], self._rows[last] = self._rows[last], self._rows[slot]
        self._lengths[slot] = self._lengths[last]
        self._lengths.pop()

    def decode_step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each slot in use; return the logits of the next token, [used, V]."""
        if not tokens:
            return no_logits(self._model)
        rows = self._rows[: len(tokens)]
        # An unused slot gets token 0 at position 0.
        inputs_2S = torch.zeros(self._inputs_2S.shape, dtype=torch.long)
        inputs_2S[:, rows] = torch.tensor([list(tokens), self._lengths])
        self._inputs_2S.copy_(inputs_2S)
        logits_SV = self._step(round_up(max(self._lengths) + 1, LENGTH_MULTIPLE))
        self._lengths = [length + 1 for length in self._lengths]
        return logits_SV[torch.tensor(rows, device=logits_SV.device)]

    def _num_tokens(self, prompt: PrefilledPrompt) -> int:
        return min(len(prompt.tokens) + self._new_tokens, self._model.config.context_length)

    def _allocate(self, num_tokens: int) -> None:
        """Allocate slots of `num_tokens` tokens, as many as fit in memory."""
        config = self._model.config
        weight = self._model.embedding.weight
        self._slot_tokens = round_up(num_tokens, LENGTH_MULTIPLE)
        max_slots = self._cache_bytes // (kv_token_bytes(self._model) * self._slot_tokens)
        self.capacity = max(1, min(self._max_slots, max_slots))
        self._rows = list(range(self.capacity))
        """The row of each sample in the tensors; rows after the last sample's are free."""
        shape = (self.capacity, config.num_heads, self._slot_tokens, config.head_dim)
        zeros = partial(torch.zeros, shape, dtype=weight.dtype, device=weight.device)
        self._layers = [(zeros(), zeros()) for _ in range(config.num_layers)]
        self._inputs_2S = torch.zeros(2, self.capacity, dtype=torch.long, device=weight.device)
        kernels = _compiled_decode() if self._decode_mode == "compiled" else decode
        step = partial(kernels, self._model, self._layers, self._inputs_2S)
        self._step = step if self._decode_mode == "eager" else CudaGraphStep(step, weight.device)


class CudaGraphStep:
    """A step that is recorded at the first use of a length and then replayed; on a CPU, called."""

    def __init__(self, step: Callable[[int], Tensor], device: torch.device) -> None:
        """`step` takes a length, and reads and writes tensors at fixed addresses."""
        self._step = step
        self._device = device
        self._replays: dict[int, Callable[[], Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        """Memory for intermediate results, shared by all lengths: they never run concurrently."""

    @property
    def lengths(self) -> list[int]:
        """The recorded lengths."""
        return list(self._replays)

    def __call__(self, length: int) -> Tensor:
        """Return the result of the step; the next call may overwrite it."""
        if length not in self._replays:
            step = partial(self._step, length)
            self._replays[length] = self._record(step) if self._device.type == "cuda" else step
        return self._replays[length]()

    def _record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        device = self._device
        with torch.cuda.device(device):
            side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream = torch.cuda.current_stream()
            side_stream.wait_stream(stream)
            with torch.cuda.stream(side_stream):
                for _ in range(_WARM_UP_STEPS):
                    step()
            stream.wait_stream(side_stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=side_stream):
                result = step()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return result

        return replay


def decode(model: CodeGen, layers: Layers, inputs_2S: Tensor, length: int) -> Tensor:
    """Return the logits after the input token of each slot: [S, V].

    Args:
        layers: keys and values; those of the input tokens are written to their positions.
        inputs_2S: the input tokens and their positions.
        length: number of positions that are attended over; larger than any input position.
    """
    hidden_S1D = model.hidden(inputs_2S[0, :, None], _KVView(layers, inputs_2S[1], length))
    logits_SV: Tensor = model.head(hidden_S1D[:, 0])
    return logits_SV


class _KVView:
    """The first `length` positions of all slots, as a `transformer.KVCache`."""

    def __init__(self, layers: Layers, positions_S: Tensor, length: int) -> None:
        self._layers = layers
        self._positions_S = positions_S
        self._length = length
        self.positions = positions_S[:, None]
        self._slots_S = torch.arange(len(positions_S), device=positions_S.device)
        is_visible_ST = torch.arange(length, device=positions_S.device) <= self.positions
        self._mask_S11T = is_visible_ST[:, None, None]

    def attend(
        self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor
    ) -> Tensor:
        """See `transformer.KVCache.attend`; one token per slot."""
        keys_SHTK, values_SHTK = self._layers[layer]
        keys_SHTK[self._slots_S, :, self._positions_S] = key_BHTK[:, :, 0]
        values_SHTK[self._slots_S, :, self._positions_S] = value_BHTK[:, :, 0]
        return F.scaled_dot_product_attention(
            query_BHTK,
            keys_SHTK[:, :, : self._length],
            values_SHTK[:, :, : self._length],
            attn_mask=self._mask_S11T,
        )


@cache
def _compiled_decode() -> Callable[[CodeGen, Layers, Tensor, int], Tensor]:
    """Return the compiled `decode`, shared by all models and shapes of this process."""
    compiled: Callable[[CodeGen, Layers, Tensor, int], Tensor]
    compiled = torch.compile(  # type: ignore[call-overload]
        decode,
        fullgraph=True,
        dynamic=False,
        recompile_limit=_MAX_COMPILED_SHAPES,
        isolate_recompiles=True,
    )
    return compiled
