"""Keys and values of earlier tokens: of prompts, and of the slots of a batch whose samples go on from them.

A prompt is held once, however many samples go on from it. A sample has a slot for its own new tokens, at a length of its
own, so prompts of different lengths need no padding. A step attends over the prompts, all samples of one at a time, and
over the slots, and weighs the two by their masses of probability, as if keys and values lay one after the other. Slots and
prompts in use are always the first ones, so a step works on views.

One decision: a sample's numbers are the same bits whatever else is in the batch. Kernels sum in another order where a shape
differs, so shapes are rounded to where they do not (measured: docs/decisions/0008-sampling.md). Not covered: paging, and
other devices than a CPU (see `fixed`).

Shapes: S slots in use, P prompts of a shelf, N places for samples of one prompt, T time, H heads, K head dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import CodeGen

_ROWS, _SLOT_TOKENS = 16, 32
"""Slots of a step, and the length over which slots are attended, are rounded up to these."""
_PROMPT_TOKENS, _PLACES = 128, 8
"""A prompt's length, and the samples of a prompt, are rounded up to these. The length is that of the prompt alone: sums over
more empty places differ in their last bits."""
_SCORED_AT_ONCE = 256
"""Tokens of a prompt whose logits are held at a time."""


class Prompt:
    """A prompt that was computed once: its keys and values, and the logits of the token after it."""

    def __init__(self, model: CodeGen, tokens: Sequence[int]) -> None:
        self.tokens = tuple(tokens)
        device = model.embedding.weight.device
        self.positions = torch.arange(len(tokens), device=device)[None]
        self.keys_and_values: list[tuple[Tensor, Tensor]] = []
        self._nats: dict[int, float] = {}
        self._hidden_1TD = model.hidden(torch.tensor([self.tokens], device=device), self)
        self.logits_1V: Tensor = model.head(self._hidden_1TD[:, -1])

    def attend(
        self,
        layer: int,
        query_BHTK: Tensor,
        key_BHTK: Tensor,
        value_BHTK: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Causal attention within the prompt; the layers come in order."""
        self.keys_and_values.append((key_BHTK, value_BHTK))
        return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, is_causal=True)

    def nats(self, model: CodeGen, start: int) -> float:
        """The sum of `-log p(token | tokens before it)` over the tokens from `start` (at least 1) on."""
        if start not in self._nats:
            hidden_ND = self._hidden_1TD[0, start - 1 : -1]
            targets_N = torch.tensor(self.tokens[start:], device=hidden_ND.device)
            total = 0.0
            for first in range(0, len(targets_N), _SCORED_AT_ONCE):
                some = slice(first, first + _SCORED_AT_ONCE)
                logits_NV = model.head(hidden_ND[some]).float()
                total += float(
                    F.cross_entropy(logits_NV, targets_N[some], reduction="none").double().sum()
                )
            self._nats[start] = total
        return self._nats[start]


class BatchedKVCache:
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
        self._new = allocate_kv(model, _up(self.capacity, _ROWS), slot_tokens)
        self._shelves: dict[int, SharedPrefixBlock] = {}
        """By the rounded length of their prompts."""
        self._prompts: list[tuple[int, ...]] = []
        """Of each slot."""
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
        length = _up(len(prompt.tokens), _PROMPT_TOKENS)
        shelf = self._shelves.get(length)
        if shelf and prompt.tokens in shelf.prompts:
            return True
        held = sum(length * one.num_rows_with(0) for length, one in self._shelves.items())
        more = length * (shelf.num_rows_with(1) - shelf.num_rows_with(0) if shelf else 1)
        return (held + more) * self._token_bytes <= self._prompt_bytes

    def add(self, prompt: Prompt) -> None:
        """Take the next free slot for a sample of this prompt."""
        length = _up(len(prompt.tokens), _PROMPT_TOKENS)
        if length not in self._shelves:
            self._shelves[length] = SharedPrefixBlock(self._model, length)
        self._shelves[length].add_prefix(prompt)
        self._prompts.append(prompt.tokens)
        self._lengths.append(0)

    def remove(self, slot: int) -> None:
        """Free a slot; the last slot in use moves there."""
        prompt, length, last = self._prompts[slot], self._lengths.pop(), len(self._lengths)
        moved = self._prompts.pop()
        if slot < last:
            self._new[:, :, slot, :, :length] = self._new[:, :, last, :, :length]
            self._lengths[slot], self._prompts[slot] = length, moved
        if prompt not in self._prompts:
            shelf_length = _up(len(prompt), _PROMPT_TOKENS)
            self._shelves[shelf_length].release(prompt)
            if not self._shelves[shelf_length].prompts:
                del self._shelves[shelf_length]

    def decode_step(self, tokens: Sequence[int]) -> Tensor:
        """Give every slot in use its next token, and return the logits of the one after it: [S, V]."""
        if not tokens:
            return torch.empty(
                0, self._model.config.padded_vocab_size, device=self.device, dtype=self._new.dtype
            )
        spare = _up(len(tokens), _ROWS) - len(tokens)  # They repeat the first one.
        self._prepare_step(
            self._lengths + self._lengths[:1] * spare, self._prompts + self._prompts[:1] * spare
        )
        fed = torch.tensor([*tokens, *[tokens[0]] * spare], device=self.device)
        hidden_S1D = self._model.hidden(fed[:, None], self)
        self._lengths = [length + 1 for length in self._lengths]
        logits_SV: Tensor = self._model.head(hidden_S1D[:, 0])
        return logits_SV[: len(tokens)]

    def attend(
        self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor
    ) -> Tensor:
        """Attention of one token per slot over its prompt and the tokens of its own slot."""
        for held, fresh_BHTK in zip(self._new[layer], (key_BHTK, value_BHTK), strict=True):
            held[self._rows, :, self._at] = fresh_BHTK[:, :, 0]
        keys_SHTK, values_SHTK = self._new[
            layer, :, : len(self._rows), :, : self._mask_S11T.shape[-1]
        ]
        own_SH1K, own_mass_SH1 = attention_with_lse(
            query_BHTK, keys_SHTK, values_SHTK, self._mask_S11T
        )
        prompt_SH1K, prompt_mass_SH1 = torch.empty_like(own_SH1K), torch.empty_like(own_mass_SH1)
        for shelf in self._shelves.values():
            members = shelf.members
            prompt_SH1K[members], prompt_mass_SH1[members] = shelf.attend(
                layer, query_BHTK[members]
            )
        share_SH11 = torch.sigmoid(prompt_mass_SH1 - own_mass_SH1)[..., None].to(own_SH1K.dtype)
        return own_SH1K + share_SH11 * (prompt_SH1K - own_SH1K)

    def _prepare_step(self, lengths: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """What all layers of a step share: positions, masks, and who goes on from which prompt."""
        self._rows, self._at = (
            torch.arange(len(lengths), device=self.device),
            torch.tensor(lengths, device=self.device),
        )
        self.positions = (
            torch.tensor([len(prompt) for prompt in prompts], device=self.device)[:, None]
            + self._at[:, None]
        )
        self._mask_S11T = mask(
            self._new, [length + 1 for length in lengths], _up(max(lengths) + 1, _SLOT_TOKENS)
        )
        for shelf_length, shelf in self._shelves.items():
            shelf.plan(
                [
                    place
                    for place, one in enumerate(prompts)
                    if _up(len(one), _PROMPT_TOKENS) == shelf_length
                ],
                prompts,
            )


class SharedPrefixBlock:
    """Prompts of about the same length, over which their samples attend together."""

    def __init__(self, model: CodeGen, length: int) -> None:
        self._model, self._length = model, length
        self._held = allocate_kv(model, 0, length)
        self.prompts: list[tuple[int, ...]] = []
        self.members = torch.empty(0, dtype=torch.long)
        """The slots that go on from one of these."""

    def num_rows_with(self, more: int) -> int:
        """Prompts for which there is memory once there are so many more."""
        rows, wanted = self._held.shape[2], len(self.prompts) + more
        return rows if wanted <= rows else max(wanted, rows + rows // 2)

    def add_prefix(self, prompt: Prompt) -> None:
        """Keep a prompt, unless it is kept."""
        if prompt.tokens in self.prompts:
            return
        count, length = len(self.prompts), len(prompt.tokens)
        if count == self._held.shape[2]:
            grown = allocate_kv(self._model, self.num_rows_with(1), self._length)
            grown[:, :, :count] = self._held
            self._held = grown
        for layer, (key_1HTK, value_1HTK) in enumerate(prompt.keys_and_values):
            self._held[layer, 0, count, :, :length] = key_1HTK[0]
            self._held[layer, 1, count, :, :length] = value_1HTK[0]
        self.prompts.append(prompt.tokens)

    def release(self, prompt: tuple[int, ...]) -> None:
        """Let a prompt go; the last one moves to its place."""
        number, last = self.prompts.index(prompt), self.prompts.pop()
        if number < len(self.prompts):
            self._held[:, :, number] = self._held[:, :, len(self.prompts)]
            self.prompts[number] = last

    def plan(self, members: Sequence[int], prompts_of_slots: Sequence[tuple[int, ...]]) -> None:
        """Who attends in the next step: the slots `members`."""
        numbers = {prompt: number for number, prompt in enumerate(self.prompts)}
        counts, place = [0] * len(self.prompts), []
        for slot in members:
            number = numbers[prompts_of_slots[slot]]
            place.append((number, counts[number]))
            counts[number] += 1
        self._num_places = _up(max(counts), _PLACES)
        device = self._held.device
        self.members = torch.tensor(members, device=device)
        self._place = torch.tensor(
            [number * self._num_places + rank for number, rank in place], device=device
        )
        self._mask_P11T = mask(self._held, [len(prompt) for prompt in self.prompts], self._length)

    def attend(self, layer: int, query_SH1K: Tensor) -> tuple[Tensor, Tensor]:
        """Of the members, in their order: attention over their prompts [S, H, 1, K], and its mass [S, H, 1]."""
        count, (heads, dim) = len(self.prompts), (query_SH1K.shape[1], query_SH1K.shape[3])
        placed = query_SH1K.new_zeros(count * self._num_places, heads, dim)
        placed[self._place] = query_SH1K[:, :, 0]
        query_PHNK = placed.view(count, self._num_places, heads, dim).transpose(1, 2)
        keys_PHTK, values_PHTK = self._held[layer, :, :count]
        attended_PHNK, mass_PHN = attention_with_lse(
            query_PHNK, keys_PHTK, values_PHTK, self._mask_P11T
        )
        attended, mass = (
            one.transpose(1, 2).flatten(0, 1)[self._place] for one in (attended_PHNK, mass_PHN)
        )
        return attended[:, :, None], mass[:, :, None]


def attention_with_lse(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of the mass that the softmax divided by: [.., N, K] and [.., N]."""
    attended, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask
    )
    return attended, mass


def allocate_kv(model: CodeGen, rows: int, tokens: int) -> Tensor:
    """Zeros for keys and values, [layer, 2, row, H, T, K]: what no token lies in is read, though it counts nothing."""
    config, weight = model.config, model.embedding.weight
    shape = (config.num_layers, 2, rows, config.num_heads, tokens, config.head_dim)
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


def mask(like: Tensor, lengths: Sequence[int], tokens: int) -> Tensor:
    """0 where there is a token and -inf past it, [rows, 1, 1, T], of the type and on the device of another tensor."""
    seen = (
        torch.arange(tokens, device=like.device)
        < torch.tensor(lengths, device=like.device)[:, None]
    )
    return like.new_zeros(seen.shape).masked_fill_(~seen, -math.inf)[:, None, None]


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
