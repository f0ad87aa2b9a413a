"""What a training step holds in memory per process: pure arithmetic over a model's shape and a setting.

Design decision: memory is estimated at the four moments at which a step can be largest (end of the forward pass, first
block of the backward pass, reduction of the gradients, optimizer step), and the largest is the answer; so its parts add
up, and each says what it is at that moment. What is counted are the tensors' bytes, as `torch.cuda.max_memory_allocated`
does; tests/integration/test_planned_memory.py compares them with measured ones. No torch is imported here.

Sources: model states, ZeRO (arXiv 1910.02054) section 5; activations, by the method of arXiv 2205.05198 section 4 for our
parallel block; buffers and copies, DeepSpeed 0.19.8 and `model.loss` as measured. Not covered: the first seconds (a model
is made, or read, whole in fp32), the CUDA context, NCCL, fragmentation (`devices` keeps a reserve); moments that a stage
takes over or leaves, which pass through the host's memory whole.

Letters: W bytes of a weight and an activation, N processes, T context length, D model, V vocabulary rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import computed_field

from components.core.config import Config
from components.model.config import ModelConfig
from components.training.deepspeed_config import BUCKET_ELEMENTS
from components.training.planning.parallel_layout import ParallelLayout

_MASTER_AND_MOMENTS_BYTES = 12
"""fp32 master weight and Adam's two moments: K = 12 of ZeRO section 3.1."""
_MOMENTS_BYTES = 8
"""Without ZeRO, fp32 weights are their own master copy."""
_FP32_BYTES = 4
_BLOCK_WIDTHS = 16
"""Values a block keeps for its backward pass, per token and in units of D: its input 1, LayerNorm 1, queries, keys and
values 3, rotated queries and keys 2, attention 1, MLP before and after GELU 4 + 4. No dropout masks, and no T x T scores:
attention is computed in tiles (FlashAttention, arXiv 2205.14135) that keep one fp32 logarithm per head and token."""
_WHOLE_WIDTHS = 2
"""Of these, the input and LayerNorm's, which every rank of a copy has whole with tensor parallelism (arXiv 1909.08053)."""
_INNER_WIDTHS = 4
"""Of the MLP's inner layer, which it cuts."""
_BACKWARD_WIDTHS = 5
"""Gradients alive inside a block's backward pass: of the residual stream 1, of the MLP's inner layer 4."""
_HEAD_CHUNK_BYTES = 12
"""Per logit of a chunk of `model.loss`, in any precision: logits, probabilities, and what the chunk before left behind."""
_STAGE_0_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed joins gradients up to this many into one tensor before it averages them without ZeRO."""
_STAGE_3_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's default `stage3_max_live_parameters` and `sub_group_size`."""
_STAGE_3_PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's default `stage3_prefetch_bucket_size`: what is gathered at once, which needs a second copy meanwhile."""

Moment = Literal["forward", "backward", "reduction", "step"]


class MemoryEstimate(Config):
    """What one process holds at the moment at which it holds most, by part."""

    phase: Moment
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """Master weights and moments."""
    activations_bytes: int
    """With the head's own gradients and its chunk of logits."""
    buffers_bytes: int
    """For communication, and copies that the optimizer's step makes."""
    host_bytes: int
    """In the host's memory, for offloading; not part of the total."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def total_bytes(self) -> int:
        """All parts on the device."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.buffers_bytes
        )


def peak_memory(model: ModelConfig, setting: ParallelLayout, accumulation: int) -> MemoryEstimate:
    """What a process of this setting holds at its fullest moment, in bytes.

    Args:
        accumulation: micro-batches that are summed up for one optimizer step; from two on, gradients are there already
            while the last ones run.
    """
    layout = _Layout(model, setting, accumulates=accumulation > 1)
    moments = (layout.forward(), layout.backward(), layout.reduction(), layout.optimizer_step())
    return max(moments, key=lambda one: one.total_bytes)


def checkpoint_bytes(model: ModelConfig, setting: ParallelLayout) -> int:
    """One checkpoint inside a stage, all processes together: weights and optimizer state.

    ZeRO 3 saves its weights as the optimizer's master copies alone. What tensor parallelism does not cut is saved by each.
    """
    weights = 0 if setting.zero_stage == 3 else setting.weight_bytes
    return (
        setting.tensor_parallel
        * _own_parameters(model, setting)
        * (weights + _optimizer_bytes(setting))
    )


def _own_parameters(model: ModelConfig, setting: ParallelLayout) -> int:
    """Of a process, before ZeRO: tensor parallelism cuts a block's matrices (12 D^2) and its inner layer's bias (4 D)."""
    cut = model.num_layers * (12 * model.d_model**2 + 4 * model.d_model)
    return model.num_parameters - cut + cut // setting.tensor_parallel


def _optimizer_bytes(setting: ParallelLayout) -> int:
    """Per parameter, before partitioning."""
    return (
        _MOMENTS_BYTES
        if setting.zero_stage == 0 and setting.precision == "fp32"
        else _MASTER_AND_MOMENTS_BYTES
    )


@dataclass(frozen=True)
class _Layout:
    """The sizes of one setting, in bytes, and what is held at each moment."""

    model: ModelConfig
    setting: ParallelLayout
    accumulates: bool

    def forward(self) -> MemoryEstimate:
        """The end of the forward pass, in the head: all blocks' activations, and gradients of micro-batches before."""
        rows = max(1, self.model.d_model // 2)  # `model.loss.chunks`
        chunk = _HEAD_CHUNK_BYTES * min(rows, self.tokens) * self.model.padded_vocab_size
        # What the last LayerNorm reads and gives, the slice of it that is predicted from, and the gradient of that.
        hidden = self.width * (4 if self.setting.micro_batch > 1 else 3)
        buffers = self.bucket if self.stage == 3 or (self.stage == 1 and self.accumulates) else 0
        return self._memory(
            "forward", self._earlier_gradients(), self.blocks + hidden + self.head + chunk, buffers
        )

    def backward(self) -> MemoryEstimate:
        """The first block of the backward pass: nothing of the other blocks is released yet."""
        model, w = self.model, self.setting.weight_bytes
        # The gradient of an MLP matrix before it is added to the others.
        widest = 4 * model.d_model**2 * w // self.cut
        alive = (
            _BACKWARD_WIDTHS - _INNER_WIDTHS
        ) * self.width + _INNER_WIDTHS * self.width // self.cut
        activations = self.blocks + self.recomputed + self.width + alive + widest
        # From ZeRO 2 on, the head's gradient is in the bucket by then.
        gradients = self._earlier_gradients() or (self.head if self.stage < 2 else 0)
        return self._memory("backward", gradients, activations, self.bucket)

    def reduction(self) -> MemoryEstimate:
        """The embedding, last of all: every gradient is there, and is averaged."""
        whole, reduced = self.all_gradients, self._reduced_gradients()
        if self.stage == 0:  # Joined into one tensor, after the embedding's.
            joined = self._elements(_STAGE_0_BUCKET_ELEMENTS)
            return self._memory("reduction", whole, 0, joined)
        activations = (
            self.width
            + self.model.padded_vocab_size * self.model.d_model * self.setting.weight_bytes
        )
        if (
            self.stage == 1
        ):  # Own ones are copied out of the whole; what fits the bucket has moved there by then.
            gradients = max(whole, whole - min(whole, self.bucket) + reduced)
        else:
            gradients = reduced + (self._earlier_gradients() if self.stage == 2 else 0)
        return self._memory("reduction", gradients, activations, self.bucket)

    def optimizer_step(self) -> MemoryEstimate:
        """Gradients are joined into one tensor and cast to fp32. Offloaded, this happens in the host."""
        gradients = self._reduced_gradients()
        if self.setting.offload != "none":
            return self._memory("step", gradients, 0, self.bucket if self.stage == 3 else 0)
        own = self.parameters // self.share
        cast = _FP32_BYTES * own if self.setting.precision == "bf16" else 0
        buffers = cast if self.stage == 0 else cast + self.setting.weight_bytes * own
        if self.stage == 3:
            most = _STAGE_3_LIVE_ELEMENTS * (
                self.setting.weight_bytes + (_FP32_BYTES if cast else 0)
            )
            buffers = self.bucket + min(buffers, most)
        return self._memory("step", gradients, 0, buffers)

    @property
    def stage(self) -> int:
        return self.setting.zero_stage

    @property
    def parameters(self) -> int:
        return _own_parameters(self.model, self.setting)

    @property
    def cut(self) -> int:
        """Into how many parts tensor parallelism cuts a block."""
        return self.setting.tensor_parallel

    @property
    def share(self) -> int:
        """Into how many parts the optimizer's state of a process' parameters is cut."""
        return self.setting.world_size // self.cut if self.stage else 1

    @property
    def tokens(self) -> int:
        return (
            self.setting.micro_batch * self.model.context_length // self.setting.sequence_parallel
        )

    @property
    def width(self) -> int:
        """One value per model dimension and token of a micro-batch."""
        return self.tokens * self.model.d_model * self.setting.weight_bytes

    @property
    def block(self) -> int:
        """What one block keeps for its backward pass, with LayerNorm's two statistics and attention's logarithms."""
        own = _WHOLE_WIDTHS * self.width + (_BLOCK_WIDTHS - _WHOLE_WIDTHS) * self.width // self.cut
        return own + self.tokens * _FP32_BYTES * (2 + self.model.num_heads // self.cut)

    @property
    def blocks(self) -> int:
        return self.model.num_layers * (
            self.width if self.setting.checkpoint_activations else self.block
        )

    @property
    def recomputed(self) -> int:
        return self.block if self.setting.checkpoint_activations else 0

    @property
    def head(self) -> int:
        """The gradient of the head, which the loss keeps from its forward pass on."""
        return self.model.padded_vocab_size * (self.model.d_model + 1) * self.setting.weight_bytes

    @property
    def bucket(self) -> int:
        """What ZeRO reduces gradients in, allocated whole however small the model."""
        return BUCKET_ELEMENTS * self.setting.weight_bytes if self.stage else 0

    @property
    def all_gradients(self) -> int:
        return self.parameters * self.setting.weight_bytes

    def _reduced_gradients(self) -> int:
        """A process's part of the averaged gradients, where it lies on the device."""
        return 0 if self.setting.offload != "none" else self.all_gradients // self.share

    def _earlier_gradients(self) -> int:
        """Those of the micro-batches before this one. ZeRO 3 keeps room for them at all times."""
        if self.stage == 3:
            return self._reduced_gradients()
        if not self.accumulates:
            return 0
        return self.all_gradients if self.stage < 2 else self._reduced_gradients()

    def _elements(self, most: int) -> int:
        return min(self.parameters, most) * self.setting.weight_bytes

    def _memory(
        self, moment: Moment, gradients: int, activations: int, buffers: int
    ) -> MemoryEstimate:
        optimizer = _optimizer_bytes(self.setting) * self.parameters // self.share
        weights, host = self.all_gradients, 0
        if self.stage == 3:
            weights //= self.share
            if self.setting.offload == "all":
                weights, host = 0, weights
            if moment != "step":
                weights += self._elements(_STAGE_3_LIVE_ELEMENTS)
                buffers += self._elements(_STAGE_3_PREFETCH_ELEMENTS) if moment == "forward" else 0
        if self.setting.offload != "none":
            # With fp32 gradients beside it (ZeRO-Offload, arXiv 2101.06840).
            optimizer, host = 0, host + optimizer + _FP32_BYTES * self.parameters // self.share
        return MemoryEstimate(
            phase=moment,
            weights_bytes=weights,
            gradients_bytes=gradients,
            optimizer_bytes=optimizer,
            activations_bytes=activations,
            buffers_bytes=buffers,
            host_bytes=host,
        )
