"""CodeGen's decoder: parallel attention and MLP behind one shared LayerNorm, rotary positions, an untied head.

Source of the architecture: docs/paper.md section 2 (model cards and the authors' code). Queries, keys and values lie one
after the other in the fused projection, heads in order; the four-block layout of released checkpoints exists in
`huggingface` alone. Not covered: dropout (CodeGen has none), tensor parallelism.

Shapes: B batch, T time, D model, H heads, K head dim, V vocabulary rows, N = B * (T - 1) predicted tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.model.config import ModelConfig
from components.model.initialization import initialise
from components.model.loss import mean_cross_entropy

LAYER_NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0
MLP_WIDENING = 4


class KVCache(Protocol):
    """Keys and values of earlier tokens, for generation (see `generation`)."""

    positions: Tensor
    """The position of every token that is fed in, [B, T]."""

    def attend(
        self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor
    ) -> Tensor:
        """Remember the keys and values, and return the attention of the queries over all that they may see: [B, H, T, K]."""
        ...


class SequenceShard(KVCache, Protocol):
    """A part of the positions of every sequence, where several processes compute one together (`training.sequence`)."""

    start: int
    stop: int
    num_slices: int


class DocumentMask:
    """Attention of every token over its own document only, of whole sequences.

    Positions go on from the document before, which rotary attention, being relative, does not see.
    """

    def __init__(self, tokens_BT: Tensor, eot_id: int) -> None:
        self.positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        ends_BT = tokens_BT == eot_id
        document_BT = (
            ends_BT.cumsum(1) - ends_BT.long()
        )  # Separators before a token are those up to it, less itself.
        self._allowed_B1TT = (document_BT[:, None, :, None] == document_BT[:, None, None, :]).tril()

    def attend(
        self,
        layer: int,
        query_BHTK: Tensor,
        key_BHTK: Tensor,
        value_BHTK: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """See `Memory`; nothing is remembered."""
        return F.scaled_dot_product_attention(
            query_BHTK, key_BHTK, value_BHTK, attn_mask=self._allowed_B1TT
        )


class CodeGen(nn.Module):
    """A CodeGen language model with the initialisation of `initialization`.

    Training under an engine that wraps `forward` (DeepSpeed): `engine(tokens_BT, z_loss=...)` is the loss.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        """Made on torch's default device; on the meta device no weight is allocated or drawn."""
        super().__init__()
        self.config = config
        self.activation_checkpoint_interval = 0
        """The activations of every so many layers are not kept for the backward pass but computed again; 0: of none."""
        self.slice: SequenceShard | None = None
        """What this process computes of every sequence when it is trained; None: all of it."""
        device = torch.get_default_device()
        # Layers made on a real device would draw weights of their own first, from the global generator.
        with torch.device("meta"):
            self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
            self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
            self.final_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPSILON)
            self.head = LMHead(config.d_model, config.padded_vocab_size)
        if device.type != "meta":
            self.to_empty(device=device)
            initialise(self, seed)

    def forward(
        self, tokens_BT: Tensor, z_loss: float | None = None, eot_id: int | None = None
    ) -> Tensor:
        """Logits [B, T, V]; or, where `z_loss` is given (0.0 counts), the scalar that `loss` documents.

        With an `eot_id`, tokens see nothing of the documents before theirs; the end-of-text belongs to the one it ends.
        """
        if z_loss is not None and self.slice is not None:
            return self._loss_of_slice(tokens_BT, z_loss, self.slice)
        hidden_BTD = self.hidden(
            tokens_BT, None if eot_id is None else DocumentMask(tokens_BT, eot_id)
        )
        if z_loss is None:
            result: Tensor = self.head(hidden_BTD)
        else:
            result = self.head(hidden_BTD[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten(), z_loss)
        return result

    def loss(self, tokens_BT: Tensor, z_loss: float = 0.0) -> Tensor:
        """Mean over all but the first token of every sequence of `-log p(token | tokens before) + z_loss * log(Z)^2`.

        Args:
            tokens_BT: integer ids below `padded_vocab_size`; documents in a sequence are not masked from each other.
            z_loss: weight of the squared log-partition; 1e-4 in the paper's training.

        Returns:
            A scalar in nats. The logits are never held whole (see `loss.mean_cross_entropy`).
        """
        loss: Tensor = self(tokens_BT, z_loss)
        return loss

    def _loss_of_slice(self, tokens_BT: Tensor, z_loss: float, part: SequenceShard) -> Tensor:
        """A slice's share of the loss, times the number of slices: their mean is the loss."""
        targets_BS = tokens_BT[:, part.start + 1 : part.stop + 1]  # The last slice has one fewer.
        num_targets = targets_BS.shape[1]
        hidden_BSD = self.hidden(tokens_BT[:, part.start : part.stop], part)[:, :num_targets]
        mean: Tensor = self.head(hidden_BSD.flatten(0, 1), targets_BS.flatten(), z_loss)
        return mean * (num_targets * part.num_slices / (tokens_BT.shape[1] - 1))

    def hidden(self, tokens_BT: Tensor, memory: KVCache | None = None) -> Tensor:
        """What the head reads: the residual stream after the final LayerNorm, [B, T, D].

        With a `memory` the tokens continue what it holds; without one they are whole sequences.
        """
        if memory is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        else:
            positions_BT = memory.positions
        rotation_BT11K = rotary_frequencies(
            positions_BT, self.config.rotary_dim, self.config.head_dim
        )[:, :, None, None]
        x_BTD: Tensor = self.embedding(tokens_BT)
        for number, block in enumerate(self.blocks):
            if (
                self.activation_checkpoint_interval
                and number % self.activation_checkpoint_interval == 0
                and torch.is_grad_enabled()
            ):
                x_BTD = checkpoint(
                    block,
                    x_BTD,
                    rotation_BT11K,
                    memory,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                x_BTD = block(x_BTD, rotation_BT11K, memory)
        normed_BTD: Tensor = self.final_norm(x_BTD)
        return normed_BTD


class Block(nn.Module):
    """One layer: `x + attention(LN x) + mlp(LN x)`, both reading the same LayerNorm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        d = config.d_model
        self.layer, self.num_heads, self.head_dim = layer, config.num_heads, config.head_dim
        self.norm = nn.LayerNorm(d, eps=LAYER_NORM_EPSILON)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.attention_out = nn.Linear(d, d, bias=False)
        self.mlp_in = nn.Linear(d, MLP_WIDENING * d)
        self.mlp_out = nn.Linear(MLP_WIDENING * d, d)

    def forward(
        self, x_BTD: Tensor, rotation_BT11K: Tensor, memory: KVCache | None = None
    ) -> Tensor:
        """The next state of the residual stream, [B, T, D]."""
        normed_BTD = self.norm(x_BTD)
        attended_BTD: Tensor = self.attention_out(
            self._attention(normed_BTD, rotation_BT11K, memory)
        )
        transformed_BTD: Tensor = self.mlp_out(F.gelu(self.mlp_in(normed_BTD), approximate="tanh"))
        return x_BTD + attended_BTD + transformed_BTD

    def _attention(self, x_BTD: Tensor, rotation_BT11K: Tensor, memory: KVCache | None) -> Tensor:
        qkv_BT3HK = self.qkv(x_BTD).view(*x_BTD.shape[:2], 3, self.num_heads, self.head_dim)
        query_key_BT2HK, value_BT1HK = qkv_BT3HK.split((2, 1), dim=2)
        query_BTHK, key_BTHK = apply_rotary(query_key_BT2HK, rotation_BT11K).unbind(2)
        query_BHTK, key_BHTK, value_BHTK = (
            one.transpose(1, 2) for one in (query_BTHK, key_BTHK, value_BT1HK.squeeze(2))
        )
        if memory is None:
            attended_BHTK = F.scaled_dot_product_attention(
                query_BHTK, key_BHTK, value_BHTK, is_causal=True
            )
        else:
            attended_BHTK = memory.attend(self.layer, query_BHTK, key_BHTK, value_BHTK)
        return attended_BHTK.transpose(1, 2).flatten(2)


class LMHead(nn.Linear):
    """The untied output projection with a bias. A module of its own, so that an engine that shards weights sees its use."""

    def forward(
        self, hidden: Tensor, targets_N: Tensor | None = None, z_loss: float = 0.0
    ) -> Tensor:
        """Logits of `hidden` [..., D]; or, with targets, the mean loss of `hidden` [N, D] that `loss` defines."""
        if targets_N is None:
            return super().forward(hidden)
        return mean_cross_entropy(hidden, self.weight, self.bias, targets_N, z_loss)


def rotary_frequencies(positions: Tensor, rotary_dim: int, head_dim: int) -> Tensor:
    """Unit complex numbers that rotate the pairs (2j, 2j+1) of a head by `position * base^(-2j / rotary_dim)`.

    Source: RoFormer (arXiv 2104.09864) eq. 34, pairs interleaved as in GPT-J; pairs past `rotary_dim` are left alone.

    Returns:
        complex64 of shape `[*positions.shape, head_dim / 2]`.
    """
    exponents = torch.arange(0, rotary_dim, 2, device=positions.device) / rotary_dim
    angles = positions[..., None].float() * ROTARY_BASE**-exponents
    angles = F.pad(angles, (0, (head_dim - rotary_dim) // 2))
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the last axis of `heads` pairwise, computed in fp32 as in the authors' code."""
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)
