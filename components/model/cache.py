"""Keys and values of earlier tokens: of prompts, and of the slots of a batch whose samples go on from them.

A prompt is held once, however many samples go on from it. A sample has a slot for its own new tokens, at a length of its
own, so prompts of different lengths need no padding. A step attends over the prompts, all samples of one at a time, and
over the slots, and weighs the two by their masses of probability, as if keys and values lay one after the other. Slots and
prompts in use are always the first ones, so a step works on views. Lengths are rounded up to where the kernels' sums are
the same bits whatever else is in the batch (docs/decisions/0008-sampling.md). Not covered: paging.

Shapes: S slots in use, P prompts in use, N places for samples of one prompt, T time, H heads, K head dim, V vocabulary rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import CodeGen

_ROWS, _SLOT_TOKENS, _PROMPT_TOKENS, _PLACES = 16, 32, 128, 16
"""Slots of a step, lengths of slots and of prompts, and samples of a prompt are rounded up to these."""
_SCORED_AT_ONCE = 256
"""Tokens of a prompt whose logits are held at a time."""


class Prompt:
    """A prompt that was computed once: its keys and values, and the logits of the token after it."""

    def __init__(self, model: CodeGen, tokens: Sequence[int]) -> None:
        self.tokens = tuple(tokens)
        device = model.embedding.weight.device
        self.positions = torch.arange(len(tokens), device=device)[None]
        self.keys_and_values: list[tuple[Tensor, Tensor]] = []
        self._hidden_1TD = model.hidden(torch.tensor([self.tokens], device=device), self)
        self.logits_1V: Tensor = model.head(self._hidden_1TD[:, -1])

    def attend(self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:  # noqa: ARG002
        """Causal attention within the prompt; the layers come in order."""
        self.keys_and_values.append((key_BHTK, value_BHTK))
        return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, is_causal=True)

    def nats(self, model: CodeGen, start: int) -> float:
        """The sum of `-log p(token | tokens before it)` over the tokens from `start` (at least 1) on."""
        hidden_ND = self._hidden_1TD[0, start - 1 : -1]
        targets_N = torch.tensor(self.tokens[start:], device=hidden_ND.device)
        total = 0.0
        for first in range(0, len(targets_N), _SCORED_AT_ONCE):
            some = slice(first, first + _SCORED_AT_ONCE)
            logits_NV = model.head(hidden_ND[some]).float()
            total += float(F.cross_entropy(logits_NV, targets_N[some], reduction="none").double().sum())
        return total


class Slots:
    """Samples that are drawn together, each at its own position."""

    def __init__(self, model: CodeGen, num_slots: int, new_tokens: int, cache_bytes: int) -> None:
        """At most `num_slots` slots of `new_tokens`, and as many prompts, in `cache_bytes`; one sample always has room."""
        config, weight = model.config, model.embedding.weight
        self._model, self.device = model, weight.device
        self._token_bytes = 2 * config.num_layers * config.d_model * weight.element_size()
        slot_tokens = _up(new_tokens, _SLOT_TOKENS)
        most = max(1, cache_bytes // 2 // (slot_tokens * self._token_bytes))
        self.capacity = min(num_slots, most)
        self._prompt_bytes = cache_bytes - self.capacity * slot_tokens * self._token_bytes
        self._new = self._memory(_up(self.capacity, _ROWS), slot_tokens)
        self._old = self._memory(0, 0)
        self._prompts: list[tuple[int, ...]] = []
        self._prompt_of: list[int] = []
        """Slot to prompt."""
        self._lengths: list[int] = []
        """New tokens of each slot."""

    def __len__(self) -> int:
        """Slots in use."""
        return len(self._lengths)

    def has_room(self, prompt: Prompt) -> bool:
        """Whether a sample of this prompt can be added now; where nothing is in use, it always can."""
        if not self._lengths:
            return True
        if len(self._lengths) == self.capacity:
            return False
        return prompt.tokens in self._prompts or len(self._prompts) < self._most_prompts(len(prompt.tokens))

    def add(self, prompt: Prompt) -> None:
        """Take the next free slot for a sample of this prompt."""
        if prompt.tokens not in self._prompts:
            self._hold(prompt)
        self._prompt_of.append(self._prompts.index(prompt.tokens))
        self._lengths.append(0)

    def remove(self, slot: int) -> None:
        """Free a slot; the last slot in use moves there."""
        prompt, length, last = self._prompt_of[slot], self._lengths.pop(), len(self._lengths)
        moved = self._prompt_of.pop()
        if slot < last:
            self._new[:, :, slot, :, :length] = self._new[:, :, last, :, :length]
            self._lengths[slot], self._prompt_of[slot] = length, moved
        if prompt not in self._prompt_of:
            self._release(prompt)

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Give every slot in use its next token, and return the logits of the one after it: [S, V]."""
        if not tokens:
            return torch.empty(0, self._model.config.vocab_rows, device=self.device, dtype=self._new.dtype)
        rows = _up(len(tokens), _ROWS)
        self._plan(rows)
        fed = torch.tensor([*tokens, *[tokens[0]] * (rows - len(tokens))], device=self.device)
        hidden_S1D = self._model.hidden(fed[:, None], self)
        self._lengths = [length + 1 for length in self._lengths]
        logits_SV: Tensor = self._model.head(hidden_S1D[:, 0])
        return logits_SV[: len(tokens)]

    def attend(self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:
        """Attention of one token per slot over its prompt and the tokens of its own slot."""
        for memory, fresh_BHTK in zip(self._new[layer], (key_BHTK, value_BHTK), strict=True):
            memory[self._rows, :, self._at] = fresh_BHTK[:, :, 0]
        keys_SHTK, values_SHTK = self._new[layer, :, : len(self._rows), :, : self._mask_S11T.shape[-1]]
        own_SH1K, own_mass_SH1 = _attend(query_BHTK, keys_SHTK, values_SHTK, self._mask_S11T)
        heads, dim = query_BHTK.shape[1], query_BHTK.shape[3]
        placed = query_BHTK.new_zeros(len(self._prompts) * self._num_places, heads, dim)
        placed[self._place] = query_BHTK[:, :, 0]
        keys_PHTK, values_PHTK = self._old[layer, :, : len(self._prompts), :, : self._mask_P11T.shape[-1]]
        query_PHNK = placed.view(len(self._prompts), self._num_places, heads, dim).transpose(1, 2)
        prompt_PHNK, mass_PHN = _attend(query_PHNK, keys_PHTK, values_PHTK, self._mask_P11T)
        prompt_SH1K = prompt_PHNK.transpose(1, 2).flatten(0, 1)[self._place, :, None]
        prompt_mass_SH1 = mass_PHN.transpose(1, 2).flatten(0, 1)[self._place, :, None]
        share_SH11 = torch.sigmoid(prompt_mass_SH1 - own_mass_SH1)[..., None].to(own_SH1K.dtype)
        return own_SH1K + share_SH11 * (prompt_SH1K - own_SH1K)

    def _plan(self, rows: int) -> None:
        """What all layers of a step share: positions, places and masks. Rows past the slots in use repeat the first one."""
        spare = rows - len(self._lengths)
        lengths, prompts = self._lengths + self._lengths[:1] * spare, self._prompt_of + self._prompt_of[:1] * spare
        self._rows, self._at = torch.arange(rows, device=self.device), torch.tensor(lengths, device=self.device)
        prompt_lengths = [len(tokens) for tokens in self._prompts]
        self.positions = torch.tensor([prompt_lengths[number] for number in prompts], device=self.device)[:, None]
        self.positions = self.positions + self._at[:, None]
        counts = [0] * len(prompt_lengths)
        place = []
        for number in prompts:
            place.append((number, counts[number]))
            counts[number] += 1
        self._num_places = _up(max(counts), _PLACES)
        self._place = torch.tensor([number * self._num_places + rank for number, rank in place], device=self.device)
        self._mask_S11T = self._mask([length + 1 for length in lengths], _SLOT_TOKENS)
        self._mask_P11T = self._mask(prompt_lengths, _PROMPT_TOKENS)

    def _mask(self, lengths: Sequence[int], multiple: int) -> Tensor:
        """0 where there is a token and -inf past it, [rows, 1, 1, T]."""
        times = torch.arange(_up(max(lengths), multiple), device=self.device)
        seen = times < torch.tensor(lengths, device=self.device)[:, None]
        mask = torch.zeros(seen.shape, dtype=self._new.dtype, device=self.device).masked_fill_(~seen, -math.inf)
        return mask[:, None, None]

    def _hold(self, prompt: Prompt) -> None:
        count, length = len(self._prompts), len(prompt.tokens)
        rows, tokens = self._old.shape[2], self._old.shape[4]
        if count == rows or length > tokens:
            more = max(rows, count + 1, min(2 * count, self._most_prompts(length)))
            grown = self._memory(more, max(tokens, _up(length, _PROMPT_TOKENS)))
            grown[:, :, :count, :, :tokens] = self._old[:, :, :count]
            self._old = grown
        for layer, (key_1HTK, value_1HTK) in enumerate(prompt.keys_and_values):
            self._old[layer, 0, count, :, :length] = key_1HTK[0]
            self._old[layer, 1, count, :, :length] = value_1HTK[0]
        self._prompts.append(prompt.tokens)

    def _most_prompts(self, length: int) -> int:
        """Prompts that there is memory for with one of this length among them."""
        tokens = max(self._old.shape[4], _up(length, _PROMPT_TOKENS))
        return max(1, self._prompt_bytes // (tokens * self._token_bytes))

    def _release(self, number: int) -> None:
        """Let a prompt go; the last one moves to its place."""
        last = self._prompts.pop()
        if number < len(self._prompts):
            self._old[:, :, number] = self._old[:, :, len(self._prompts)]
            self._prompts[number] = last
            self._prompt_of = [number if one == len(self._prompts) else one for one in self._prompt_of]

    def _memory(self, rows: int, tokens: int) -> Tensor:
        """Zeros for keys and values, [layer, 2, row, H, T, K]: what no token lies in is read, though it counts nothing."""
        config = self._model.config
        shape = (config.num_layers, 2, rows, config.num_heads, tokens, config.head_dim)
        return torch.zeros(shape, dtype=self._model.embedding.weight.dtype, device=self.device)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of the mass that the softmax divided by: [.., N, K] and [.., N]."""
    if query.device.type == "cpu":
        attended, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask)
        return attended, mass
    scores = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1]) + mask
    mass = scores.logsumexp(-1)
    return (scores - mass[..., None]).exp().to(value.dtype) @ value, mass


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
