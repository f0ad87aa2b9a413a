"""The KV cache of a batch on a CPU: prompts are stored once and shared by their samples.

Each sample has a slot for its new tokens, with its own length. A decode step attends over the
shared prompts (all samples of a prompt together) and over the slots, and combines the two results
by their log-sum-exp. Used slots and prompts always come first, so a step works on views.

The logits of a sample are bitwise independent of the rest of the batch. Kernels change the order of
summation with the shape, so shapes are rounded up to sizes at which they do not (measured:
docs/decisions/0008-sampling.md). `cuda_graphs` has the cache for a GPU.

Shapes: S slots of a step, M samples of a block, P prompts of a block, N rows for the samples of
a prompt, T time, D model, H heads, K head dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import CodeGen

_SLOTS_MULTIPLE = 16
_SLOT_TOKENS_MULTIPLE = 32
"""The slots of a step and the length that is attended over in them are rounded up to these."""
_PROMPT_TOKENS_MULTIPLE = 128
_SAMPLES_MULTIPLE = 8
"""The length of a prompt and the samples of a prompt are rounded up to these. A prompt's rounded
length depends on the prompt alone: longer padding changes the last bits of a sum."""
_TOKENS_PER_SCORING = 256
"""Prompt tokens whose logits are in memory at a time."""

PromptTokens = tuple[int, ...]


class PrefilledPrompt:
    """A prompt after its prefill: its keys and values, and the logits of the next token."""

    def __init__(self, model: CodeGen, tokens: Sequence[int]) -> None:
        self.tokens: PromptTokens = tuple(tokens)
        device = model.embedding.weight.device
        self.positions = torch.arange(len(tokens), device=device)[None]
        self.keys_and_values: list[tuple[Tensor, Tensor]] = []
        """Of each layer, [1, H, T, K] both."""
        self._nll_by_start: dict[int, float] = {}
        self._hidden_1TD = model.hidden(torch.tensor([self.tokens], device=device), self)
        self.logits_1V: Tensor = model.head(self._hidden_1TD[:, -1])

    def attend(
        self,
        layer: int,  # noqa: ARG002
        query_BHTK: Tensor,
        key_BHTK: Tensor,
        value_BHTK: Tensor,
    ) -> Tensor:
        """See `transformer.KVCache.attend`: causal attention within the prompt."""
        self.keys_and_values.append((key_BHTK, value_BHTK))
        return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTK, is_causal=True)

    def nll_nats(self, model: CodeGen, start: int) -> float:
        """Return the sum of `-log p(token | tokens before)` from token `start` (at least 1) on."""
        if start not in self._nll_by_start:
            hidden_TD = self._hidden_1TD[0, start - 1 : -1]
            targets_T = torch.tensor(self.tokens[start:], device=hidden_TD.device)
            total = 0.0
            for first in range(0, len(targets_T), _TOKENS_PER_SCORING):
                chunk = slice(first, first + _TOKENS_PER_SCORING)
                logits_TV = model.head(hidden_TD[chunk]).float()
                losses_T = F.cross_entropy(logits_TV, targets_T[chunk], reduction="none")
                total += float(losses_T.double().sum())
            self._nll_by_start[start] = total
        return self._nll_by_start[start]


class BatchedKVCache:
    """The KV cache of samples that are generated together, each at its own position."""

    def __init__(self, model: CodeGen, num_slots: int, new_tokens: int, cache_bytes: int) -> None:
        """Allocate at most `num_slots` slots of `new_tokens` tokens, in half of `cache_bytes`.

        Prompts use the rest; a single sample always fits.
        """
        self._model = model
        self.device = model.embedding.weight.device
        self._token_bytes = kv_token_bytes(model)
        slot_tokens = round_up(new_tokens, _SLOT_TOKENS_MULTIPLE)
        slot_bytes = slot_tokens * self._token_bytes
        self.capacity = min(num_slots, max(1, cache_bytes // 2 // slot_bytes))
        self._prompt_bytes = cache_bytes - self.capacity * slot_bytes
        self._slots = allocate_kv(model, round_up(self.capacity, _SLOTS_MULTIPLE), slot_tokens)
        self._blocks: dict[int, SharedPrefixBlock] = {}
        """By the rounded length of their prompts."""
        self._prompts: list[PromptTokens] = []
        """The prompt of each slot."""
        self._lengths: list[int] = []
        """The number of new tokens in each slot."""

    def __len__(self) -> int:
        """Slots in use."""
        return len(self._lengths)

    def has_room(self, prompt: PrefilledPrompt) -> bool:
        """Whether a sample of this prompt fits now; it always fits into an empty cache."""
        if not self._lengths:
            return True
        if len(self._lengths) == self.capacity:
            return False
        length = _rounded_length(prompt.tokens)
        block = self._blocks.get(length)
        if block and prompt.tokens in block.prompts:
            return True
        allocated = sum(tokens * shared.rows_for(0) for tokens, shared in self._blocks.items())
        additional = length * (block.rows_for(1) - block.rows_for(0) if block else 1)
        return (allocated + additional) * self._token_bytes <= self._prompt_bytes

    def add(self, prompt: PrefilledPrompt) -> None:
        """Assign the next free slot to a sample of this prompt."""
        length = _rounded_length(prompt.tokens)
        if length not in self._blocks:
            self._blocks[length] = SharedPrefixBlock(self._model, length)
        self._blocks[length].add_prefix(prompt)
        self._prompts.append(prompt.tokens)
        self._lengths.append(0)

    def remove(self, slot: int) -> None:
        """Free a slot; the last slot in use moves there."""
        prompt = self._prompts[slot]
        last = len(self._lengths) - 1
        last_length = self._lengths.pop()
        last_prompt = self._prompts.pop()
        if slot < last:
            self._slots[:, :, slot, :, :last_length] = self._slots[:, :, last, :, :last_length]
            self._lengths[slot] = last_length
            self._prompts[slot] = last_prompt
        if prompt not in self._prompts:
            length = _rounded_length(prompt)
            self._blocks[length].remove_prefix(prompt)
            if not self._blocks[length].prompts:
                del self._blocks[length]

    def decode_step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each slot in use; return the logits of the next token, [S, V]."""
        if not tokens:
            return no_logits(self._model)
        # Padding slots repeat the first slot.
        num_padding = round_up(len(tokens), _SLOTS_MULTIPLE) - len(tokens)
        self._prepare_step(
            self._lengths + self._lengths[:1] * num_padding,
            self._prompts + self._prompts[:1] * num_padding,
        )
        inputs_S = torch.tensor([*tokens, *[tokens[0]] * num_padding], device=self.device)
        hidden_S1D = self._model.hidden(inputs_S[:, None], self)
        self._lengths = [length + 1 for length in self._lengths]
        logits_SV: Tensor = self._model.head(hidden_S1D[:, 0])
        return logits_SV[: len(tokens)]

    def attend(
        self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor
    ) -> Tensor:
        """See `transformer.KVCache.attend`; one token per slot, over its prompt and its slot."""
        for cached, new_BHTK in zip(self._slots[layer], (key_BHTK, value_BHTK), strict=True):
            cached[self._slots_S, :, self._lengths_S] = new_BHTK[:, :, 0]
        keys_SHTK, values_SHTK = self._slots[
            layer, :, : len(self._slots_S), :, : self._mask_S11T.shape[-1]
        ]
        slot_SH1K, slot_lse_SH1 = attention_with_lse(
            query_BHTK, keys_SHTK, values_SHTK, self._mask_S11T
        )
        prompt_SH1K = torch.empty_like(slot_SH1K)
        prompt_lse_SH1 = torch.empty_like(slot_lse_SH1)
        for block in self._blocks.values():
            samples_M = block.samples_M
            prompt_SH1K[samples_M], prompt_lse_SH1[samples_M] = block.attend(
                layer, query_BHTK[samples_M]
            )
        weight_SH11 = torch.sigmoid(prompt_lse_SH1 - slot_lse_SH1)[..., None].to(slot_SH1K.dtype)
        return slot_SH1K + weight_SH11 * (prompt_SH1K - slot_SH1K)

    def _prepare_step(self, lengths: Sequence[int], prompts: Sequence[PromptTokens]) -> None:
        """Compute the tensors that all layers of a step share: positions, masks, samples."""
        prompt_lengths_S = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self._slots_S = torch.arange(len(lengths), device=self.device)
        self._lengths_S = torch.tensor(lengths, device=self.device)
        self.positions = prompt_lengths_S[:, None] + self._lengths_S[:, None]
        self._mask_S11T = padding_mask(
            self._slots,
            [length + 1 for length in lengths],
            round_up(max(lengths) + 1, _SLOT_TOKENS_MULTIPLE),
        )
        for length, block in self._blocks.items():
            slots = [
                slot for slot, prompt in enumerate(prompts) if _rounded_length(prompt) == length
            ]
            block.prepare_step(slots, prompts)


class SharedPrefixBlock:
    """Keys and values of prompts with the same rounded length, shared by their samples."""

    def __init__(self, model: CodeGen, length: int) -> None:
        self._model = model
        self._length = length
        self._cache = allocate_kv(model, 0, length)
        self.prompts: list[PromptTokens] = []
        self.samples_M = torch.empty(0, dtype=torch.long)
        """The slots whose prompt is in this block."""

    def rows_for(self, num_new: int) -> int:
        """Return the number of allocated rows after `num_new` more prompts were added."""
        num_rows = self._cache.shape[2]
        num_needed = len(self.prompts) + num_new
        return num_rows if num_needed <= num_rows else max(num_needed, num_rows + num_rows // 2)

    def add_prefix(self, prompt: PrefilledPrompt) -> None:
        """Store a prompt unless it is stored already."""
        if prompt.tokens in self.prompts:
            return
        row = len(self.prompts)
        length = len(prompt.tokens)
        if row == self._cache.shape[2]:
            larger = allocate_kv(self._model, self.rows_for(1), self._length)
            larger[:, :, :row] = self._cache
            self._cache = larger
        for layer, (key_1HTK, value_1HTK) in enumerate(prompt.keys_and_values):
            self._cache[layer, 0, row, :, :length] = key_1HTK[0]
            self._cache[layer, 1, row, :, :length] = value_1HTK[0]
        self.prompts.append(prompt.tokens)

    def remove_prefix(self, prompt: PromptTokens) -> None:
        """Remove a prompt; the last prompt moves to its row."""
        row = self.prompts.index(prompt)
        last_prompt = self.prompts.pop()
        if row < len(self.prompts):
            self._cache[:, :, row] = self._cache[:, :, len(self.prompts)]
            self.prompts[row] = last_prompt

    def prepare_step(self, slots: Sequence[int], prompts: Sequence[PromptTokens]) -> None:
        """Assign the given slots to rows of queries; `prompts` has the prompt of every slot."""
        prompt_rows = {prompt: row for row, prompt in enumerate(self.prompts)}
        counts = [0] * len(self.prompts)
        positions = []
        for slot in slots:
            row = prompt_rows[prompts[slot]]
            positions.append((row, counts[row]))
            counts[row] += 1
        self._num_samples = round_up(max(counts), _SAMPLES_MULTIPLE)
        device = self._cache.device
        self.samples_M = torch.tensor(slots, device=device)
        self._query_rows_M = torch.tensor(
            [row * self._num_samples + index for row, index in positions], device=device
        )
        self._mask_P11T = padding_mask(
            self._cache, [len(prompt) for prompt in self.prompts], self._length
        )

    def attend(self, layer: int, query_MH1K: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention over the prompts [M, H, 1, K] and its log-sum-exp [M, H, 1]."""
        num_prompts = len(self.prompts)
        num_heads, head_dim = query_MH1K.shape[1], query_MH1K.shape[3]
        queries = query_MH1K.new_zeros(num_prompts * self._num_samples, num_heads, head_dim)
        queries[self._query_rows_M] = query_MH1K[:, :, 0]
        query_PNHK = queries.view(num_prompts, self._num_samples, num_heads, head_dim)
        keys_PHTK, values_PHTK = self._cache[layer, :, :num_prompts]
        attended_PHNK, lse_PHN = attention_with_lse(
            query_PNHK.transpose(1, 2), keys_PHTK, values_PHTK, self._mask_P11T
        )
        attended_MHK = attended_PHNK.transpose(1, 2).flatten(0, 1)[self._query_rows_M]
        lse_MH = lse_PHN.transpose(1, 2).flatten(0, 1)[self._query_rows_M]
        return attended_MHK[:, :, None], lse_MH[:, :, None]


def attention_with_lse(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return attention [.., N, K] and the log-sum-exp of its scores [.., N]."""
    attended, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask
    )
    return attended, lse


def kv_token_bytes(model: CodeGen) -> int:
    """Return the bytes of the keys and values of a token, over all layers."""
    config = model.config
    return 2 * config.num_layers * config.d_model * model.embedding.weight.element_size()


def no_logits(model: CodeGen) -> Tensor:
    """Return the logits of an empty batch, [0, V]."""
    return model.embedding.weight.new_empty(0, model.config.padded_vocab_size)


def allocate_kv(model: CodeGen, num_rows: int, num_tokens: int) -> Tensor:
    """Return zeros for keys and values, [layer, 2, row, H, T, K]; masked entries are read, too."""
    config = model.config
    weight = model.embedding.weight
    shape = (config.num_layers, 2, num_rows, config.num_heads, num_tokens, config.head_dim)
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


def padding_mask(like: Tensor, lengths: Sequence[int], num_tokens: int) -> Tensor:
    """Return an additive mask [rows, 1, 1, T]: 0 up to each length, -inf after it."""
    lengths_R1 = torch.tensor(lengths, device=like.device)[:, None]
    is_token = torch.arange(num_tokens, device=like.device) < lengths_R1
    return like.new_zeros(is_token.shape).masked_fill_(~is_token, -math.inf)[:, None, None]


def _rounded_length(prompt: PromptTokens) -> int:
    return round_up(len(prompt), _PROMPT_TOKENS_MULTIPLE)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `number`."""
    return -(-number // multiple) * multiple
