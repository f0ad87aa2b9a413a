"""Keys and values of earlier tokens: of one prompt, and of the slots of a batch that goes on from prompts.

A slot has a length of its own: its next token is written at that position and sees the positions up to it. Slots in use are
always the first ones, so a step works on views and copies nothing. Not covered: paging, sharing a prompt between slots.

Shapes: S slots in use, T time, H heads, K head dim, V vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import CodeGen


class Prompt:
    """A prompt that was computed once: its keys and values, and the logits of the token after it."""

    def __init__(self, model: CodeGen, tokens: Sequence[int]) -> None:
        self.tokens = tuple(tokens)
        device = model.embedding.weight.device
        self.positions = torch.arange(len(tokens), device=device)[None]
        self.keys_and_values: list[tuple[Tensor, Tensor]] = []
        hidden_1TD = model.hidden(torch.tensor([self.tokens], device=device), self)
        self.logits_1V: Tensor = model.head(hidden_1TD[:, -1])

    def attend(self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:  # noqa: ARG002
        """Causal attention within the prompt; the layers come in order."""
        self.keys_and_values.append((key_BHTK, value_BHTK))
        return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, is_causal=True)


class Slots:
    """Samples that are drawn together, each at its own position."""

    def __init__(self, model: CodeGen, num_positions: int, *, most_slots: int, cache_bytes: int) -> None:
        """As many slots of `num_positions` tokens as `cache_bytes` hold, at least one and at most `most_slots`."""
        config, weight = model.config, model.embedding.weight
        slot_bytes = 2 * config.num_layers * config.d_model * num_positions * weight.element_size()
        self.capacity = max(1, min(most_slots, cache_bytes // max(1, slot_bytes)))
        self.device = weight.device
        shape = (config.num_layers, self.capacity, config.num_heads, num_positions, config.head_dim)
        self._keys = torch.zeros(shape, dtype=weight.dtype, device=self.device)
        self._values = torch.zeros_like(self._keys)
        self._lengths: list[int] = []

    def add(self, prompt: Prompt) -> None:
        """Take the next free slot for a sample of this prompt."""
        slot, length = len(self._lengths), len(prompt.tokens)
        for layer, (key_1HTK, value_1HTK) in enumerate(prompt.keys_and_values):
            self._keys[layer, slot, :, :length] = key_1HTK[0]
            self._values[layer, slot, :, :length] = value_1HTK[0]
        self._lengths.append(length)

    def remove(self, slot: int) -> None:
        """Free a slot; the last slot in use moves there."""
        length = self._lengths.pop()
        if slot < len(self._lengths):
            for memory in (self._keys, self._values):
                memory[:, slot, :, :length] = memory[:, len(self._lengths), :, :length]
            self._lengths[slot] = length

    def feed(self, model: CodeGen, tokens: Sequence[int]) -> Tensor:
        """Give every slot in use its next token, and return the logits of the one after it: [S, V]."""
        if not tokens:
            return torch.empty(0, model.config.vocab_rows, device=self.device)
        self.positions = torch.tensor(self._lengths, device=self.device)[:, None]
        self._rows = torch.arange(len(tokens), device=self.device)
        self._num_seen = max(self._lengths) + 1
        self._seen_S11T = (torch.arange(self._num_seen, device=self.device) <= self.positions)[:, None, None]
        hidden_S1D = model.hidden(torch.tensor(tokens, device=self.device)[:, None], self)
        self._lengths = [length + 1 for length in self._lengths]
        logits_SV: Tensor = model.head(hidden_S1D[:, 0])
        return logits_SV

    def attend(self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:
        """Attention of one token per slot over the tokens of its own slot."""
        keys_SHTK, values_SHTK = self._keys[layer], self._values[layer]
        keys_SHTK[self._rows, :, self.positions[:, 0]] = key_BHTK[:, :, 0]
        values_SHTK[self._rows, :, self.positions[:, 0]] = value_BHTK[:, :, 0]
        used = (slice(len(self._rows)), slice(None), slice(self._num_seen))
        return F.scaled_dot_product_attention(query_BHTK, keys_SHTK[used], values_SHTK[used], attn_mask=self._seen_S11T)
