"""CodeGen's decoder: parallel attention and MLP, shared LayerNorm, rotary positions, untied head.

Source of the architecture: docs/paper.md, section 2 (model cards and the authors' code). The fused
projection holds queries, then keys, then values, heads in order; only `huggingface` knows the
four-block order of released checkpoints. CodeGen has no dropout.

Shapes: B batch, T time, S tokens of a sequence shard, D model, H heads, K head dim, V vocabulary
rows, N = B * (T - 1) predicted tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.model.config import ModelConfig
from components.model.loss import mean_cross_entropy
from components.model.weights import InitialWeights, fill_parameters

LAYER_NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0
MLP_WIDENING = 4


class KVCache(Protocol):
    """Attention over cached keys and values of earlier tokens (see `kv_cache`, `cuda_graphs`)."""

    positions: Tensor
    """The position of each input token, [B, T]."""

    def attend(
        self, layer: int, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor
    ) -> Tensor:
        """Cache keys and values; return the attention of the queries, [B, H, T, K]."""
        ...


class SequenceShard(KVCache, Protocol):
    """The positions of every sequence that this process computes (sequence parallelism)."""

    start: int
    """The first position."""
    stop: int
    """The position after the last."""
    num_slices: int
    """Processes that share a sequence."""


class DocumentMask:
    """Attention of each token to its own document; positions continue across documents."""

    def __init__(self, tokens_BT: Tensor, eot_id: int) -> None:
        self.positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        is_end_BT = tokens_BT == eot_id
        # The number of separators before each token, the token itself excluded.
        document_BT = is_end_BT.cumsum(1) - is_end_BT.long()
        self._allowed_B1TT = (document_BT[:, None, :, None] == document_BT[:, None, None, :]).tril()

    def attend(
        self,
        layer: int,  # noqa: ARG002
        query_BHTK: Tensor,
        key_BHTK: Tensor,
        value_BHTK: Tensor,
    ) -> Tensor:
        """See `KVCache.attend`; nothing is cached."""
        return F.scaled_dot_product_attention(
            query_BHTK, key_BHTK, value_BHTK, attn_mask=self._allowed_B1TT
        )


class CodeGen(nn.Module):
    """A CodeGen language model.

    An engine that wraps `forward` (DeepSpeed) gets the loss from `engine(tokens_BT, z_loss=...)`.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        """Create the model on torch's default device; on the meta device nothing is allocated."""
        super().__init__()
        self.config = config
        self.activation_checkpoint_interval = 0
        """Recompute the activations of every n-th layer in the backward pass; 0: of none."""
        self.sequence_shard: SequenceShard | None = None
        """The positions that this process computes in training; None: all."""
        device = torch.get_default_device()
        # On a real device the layers would first draw weights from the global generator.
        with torch.device("meta"):
            self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
            self.blocks = nn.ModuleList(
                TransformerBlock(config, layer) for layer in range(config.num_layers)
            )
            self.final_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPSILON)
            self.head = LMHead(config.d_model, config.padded_vocab_size)
        if device.type != "meta":
            fill_parameters(self, InitialWeights(config, seed), device)

    def forward(
        self, tokens_BT: Tensor, z_loss: float | None = None, eot_id: int | None = None
    ) -> Tensor:
        """Return the logits [B, T, V], or the scalar of `loss` if `z_loss` is not None.

        With `eot_id`, tokens attend to their own document only, which includes its end-of-text.
        """
        if z_loss is not None and self.sequence_shard is not None:
            return self._shard_loss(tokens_BT, z_loss, self.sequence_shard)
        mask = None if eot_id is None else DocumentMask(tokens_BT, eot_id)
        hidden_BTD = self.hidden(tokens_BT, mask)
        if z_loss is None:
            result: Tensor = self.head(hidden_BTD)
        else:
            result = self.head(hidden_BTD[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten(), z_loss)
        return result

    def loss(self, tokens_BT: Tensor, z_loss: float = 0.0) -> Tensor:
        """Return the mean of `-log p(token | tokens before) + z_loss * log(Z)^2` in nats.

        The mean is over all but the first token of each sequence; documents are not masked. The
        paper uses a `z_loss` of 1e-4.
        """
        loss: Tensor = self(tokens_BT, z_loss)
        return loss

    def _shard_loss(self, tokens_BT: Tensor, z_loss: float, shard: SequenceShard) -> Tensor:
        """Return this shard's part of the loss, scaled so that the mean over shards is the loss."""
        # The last shard has one target less.
        targets_BS = tokens_BT[:, shard.start + 1 : shard.stop + 1]
        num_targets = targets_BS.shape[1]
        hidden_BSD = self.hidden(tokens_BT[:, shard.start : shard.stop], shard)[:, :num_targets]
        mean: Tensor = self.head(hidden_BSD.flatten(0, 1), targets_BS.flatten(), z_loss)
        return mean * (num_targets * shard.num_slices / (tokens_BT.shape[1] - 1))

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the input of the head: the residual stream after the final LayerNorm, [B, T, D].

        With a `cache` the tokens continue its content; without, they are whole sequences.
        """
        if cache is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        else:
            positions_BT = cache.positions
        rotation_BT11K = rotary_frequencies(
            positions_BT, self.config.rotary_dim, self.config.head_dim
        )[:, :, None, None]
        x_BTD: Tensor = self.embedding(tokens_BT)
        interval = self.activation_checkpoint_interval if torch.is_grad_enabled() else 0
        for layer, block in enumerate(self.blocks):
            if interval and layer % interval == 0:
                x_BTD = checkpoint(
                    block,
                    x_BTD,
                    rotation_BT11K,
                    cache,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                x_BTD = block(x_BTD, rotation_BT11K, cache)
        normed_BTD: Tensor = self.final_norm(x_BTD)
        return normed_BTD


class TransformerBlock(nn.Module):
    """A layer: `x + attention(LN x) + mlp(LN x)`, with a shared LayerNorm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        d = config.d_model
        self.layer = layer
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.norm = nn.LayerNorm(d, eps=LAYER_NORM_EPSILON)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.attention_out = nn.Linear(d, d, bias=False)
        self.mlp_in = nn.Linear(d, MLP_WIDENING * d)
        self.mlp_out = nn.Linear(MLP_WIDENING * d, d)

    def forward(
        self, x_BTD: Tensor, rotation_BT11K: Tensor, cache: KVCache | None = None
    ) -> Tensor:
        """Return the residual stream after this layer, [B, T, D]."""
        normed_BTD = self.norm(x_BTD)
        attended_BTD: Tensor = self.attention_out(
            self._attention(normed_BTD, rotation_BT11K, cache)
        )
        transformed_BTD: Tensor = self.mlp_out(F.gelu(self.mlp_in(normed_BTD), approximate="tanh"))
        return x_BTD + attended_BTD + transformed_BTD

    def _attention(self, x_BTD: Tensor, rotation_BT11K: Tensor, cache: KVCache | None) -> Tensor:
        qkv_BT3HK = self.qkv(x_BTD).view(*x_BTD.shape[:2], 3, self.num_heads, self.head_dim)
        query_key_BT2HK, value_BT1HK = qkv_BT3HK.split((2, 1), dim=2)
        query_BTHK, key_BTHK = apply_rotary(query_key_BT2HK, rotation_BT11K).unbind(2)
        query_BHTK = query_BTHK.transpose(1, 2)
        key_BHTK = key_BTHK.transpose(1, 2)
        value_BHTK = value_BT1HK.squeeze(2).transpose(1, 2)
        if cache is None:
            attended_BHTK = F.scaled_dot_product_attention(
                query_BHTK, key_BHTK, value_BHTK, is_causal=True
            )
        else:
            attended_BHTK = cache.attend(self.layer, query_BHTK, key_BHTK, value_BHTK)
        return attended_BHTK.transpose(1, 2).flatten(2)


class LMHead(nn.Linear):
    """The untied output projection with bias; a module, so that a sharding engine gathers it."""

    def forward(
        self, hidden: Tensor, targets_N: Tensor | None = None, z_loss: float = 0.0
    ) -> Tensor:
        """Return the logits of `hidden` [..., D], or with targets the mean loss of [N, D]."""
        if targets_N is None:
            return super().forward(hidden)
        return mean_cross_entropy(hidden, self.weight, self.bias, targets_N, z_loss)


def rotary_frequencies(positions: Tensor, rotary_dim: int, head_dim: int) -> Tensor:
    """Return unit complex numbers that rotate the pairs (2j, 2j+1) of a head.

    The angle is `position * base^(-2j / rotary_dim)`: RoFormer (arXiv 2104.09864) eq. 34, pairs
    interleaved as in GPT-J. Pairs past `rotary_dim` are not rotated.

    Returns:
        complex64 of shape `[*positions.shape, head_dim / 2]`.
    """
    exponents = torch.arange(0, rotary_dim, 2, device=positions.device) / rotary_dim
    angles = positions[..., None].float() * ROTARY_BASE**-exponents
    angles = F.pad(angles, (0, (head_dim - rotary_dim) // 2))
    return torch.polar(torch.ones_like(angles), angles)


def apply_rotary(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs of the last axis of `heads`, computed in fp32 as in the authors' code."""
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)
