"""Sequence parallelism (Ulysses, arXiv 2309.14509): each rank of a copy computes a slice of every sequence.

Only attention needs the other slices: DeepSpeed's `DistributedAttention` trades positions for heads before it and back after
it, with all-to-alls. To DeepSpeed's engine these ranks are data-parallel ones: each hands it its slice's part of the loss,
scaled so that the mean over all ranks, of losses and of gradients, is the mean over the batch. So ZeRO of every stage, and
checkpoints, are as they are without. Not covered: together with tensor parallelism.

Shapes: B batch, H heads, S positions of the slice, K head dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.sequence.layer import DistributedAttention
from torch import Tensor


class SequenceSlice:
    """This rank's slice, as the model asks for it (`components.model.transformer.SequenceShard`)."""

    def __init__(self, num_slices: int, context_length: int, device: torch.device) -> None:
        """Made by all ranks together; those of a copy follow one another."""
        self.num_slices = num_slices
        copy, number = divmod(dist.get_rank(), num_slices)
        every = [
            dist.new_group(range(first, first + num_slices))
            for first in range(0, dist.get_world_size(), num_slices)
        ]
        self._attention = DistributedAttention(_causal, every[copy], scatter_idx=2, gather_idx=1)
        length = context_length // num_slices
        self.start, self.stop = number * length, (number + 1) * length
        self.positions = torch.arange(self.start, self.stop, device=device)[None]

    def attend(
        self,
        layer: int,
        query_BHSK: Tensor,
        key_BHSK: Tensor,
        value_BHSK: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """Causal attention of the slice's queries over the whole sequence, [B, H, S, K]."""
        query, key, value = (
            one.transpose(1, 2).contiguous() for one in (query_BHSK, key_BHSK, value_BHSK)
        )
        attended_BSHK: Tensor = self._attention(query, key, value, 0)
        return attended_BSHK.transpose(1, 2)


def _causal(query_BTHK: Tensor, key_BTHK: Tensor, value_BTHK: Tensor, *_: Any, **__: Any) -> Tensor:
    """Of some heads over all positions: what DeepSpeed calls between its two exchanges."""
    query, key, value = (one.transpose(1, 2) for one in (query_BTHK, key_BTHK, value_BTHK))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
