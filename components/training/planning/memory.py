"""Planned memory of a training step per process: arithmetic on a model's shape and a layout.

Memory is estimated at the four phases in which a step can peak (end of the forward pass, first
block of the backward pass, reduction of the gradients, optimizer step); the estimate is the largest
of them with its parts. Tensor bytes are counted, like `torch.cuda.max_memory_allocated` does;
tests/integration/test_planned_memory.py compares them with measurements. torch is not imported.

Sources: model states, ZeRO (arXiv 1910.02054) section 5; activations, the method of arXiv
2205.05198 section 4 for our parallel block; buffers and copies, DeepSpeed 0.19.8 and `model.loss`
as measured. Not covered: the CUDA context, NCCL, fragmentation (`devices` reserves memory for
these), and optimizer state that a stage inherits or saves, which passes through the host's memory
unpartitioned. `host_memory` has the phases outside of steps.

Symbols: W bytes of a weight and an activation, N processes, T context length, D model, V vocabulary
rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import computed_field

from components.core.config import Config
from components.model.config import ModelConfig
from components.training.config import ParallelLayout
from components.training.deepspeed_config import BUCKET_ELEMENTS

_MASTER_AND_MOMENTS_BYTES = 12
"""fp32 master weight and Adam's two moments: K = 12 of ZeRO section 3.1."""
_MOMENTS_BYTES = 8
"""Without ZeRO, fp32 weights are their own master copy."""
_FP32_BYTES = 4
_PROCESS_BYTES = 500_000_000
"""Libraries and allocator of a process: half a gigabyte (measured, docs/training.md)."""
BUILD_BUFFER_BYTES = 4 << 20
"""Buffer of a rank that writes weights: `CHUNK_VALUES` of components/model/weights.py in fp32."""
WEIGHT_FILE_BYTES = 5_000_000_000
"""Most gathered weights: `MAX_SHARD_BYTES` of components/model/huggingface."""
SMALL_PARAMETERS = 50_000_000
"""A smaller model is sampled by a process per core: components/evaluation/sampling."""
_BLOCK_WIDTHS = 16
"""Values that a block keeps for its backward pass, per token and in units of D: its input 1,
LayerNorm 1, queries, keys and values 3, rotated queries and keys 2, attention 1, MLP before and
after GELU 4 + 4. No dropout masks, and no T x T scores: attention is computed in tiles
(FlashAttention, arXiv 2205.14135) that keep an fp32 logarithm per head and token."""
_REPLICATED_WIDTHS = 2
"""Of these, the input and LayerNorm's, which tensor parallelism replicates (arXiv 1909.08053)."""
_INNER_WIDTHS = 4
"""Of the MLP's inner layer, which tensor parallelism partitions."""
_BACKWARD_WIDTHS = 5
"""Live gradients in a block's backward pass: residual stream 1, MLP inner layer 4."""
_HEAD_CHUNK_BYTES = 12
"""Per logit of a chunk of `model.loss`, in any precision: logits, probabilities, and the remainder
of the previous chunk."""
_STAGE_0_BUCKET_ELEMENTS = 500_000_000
"""Without ZeRO, DeepSpeed averages joined gradients, up to this many at a time."""
_STAGE_3_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's default `stage3_max_live_parameters` and `sub_group_size`."""
_STAGE_3_PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's default `stage3_prefetch_bucket_size`: gathering needs a second copy of these."""

Phase = Literal["forward", "backward", "reduction", "step"]


class MemoryEstimate(Config):
    """Peak memory of a process, by part."""

    phase: Phase
    """When the peak occurs."""
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    """Master weights and moments."""
    activations_bytes: int
    """Including the head's gradients and its chunk of logits."""
    buffers_bytes: int
    """For communication, and copies of the optimizer step."""
    host_bytes: int
    """Host memory for offloading; not part of the total."""

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


class HostMemory(Config):
    """Peak memory of the host of rank 0 in the phases of a run, with the libraries of each process.

    A host without rank 0 needs less.
    """

    build_bytes: int
    """Building the model, or reading the weights to start from."""
    training_bytes: int
    """Offloaded state, the copy of a checkpoint that is being written, and the memory of all
    devices if they are CPU cores."""
    gather_bytes: int
    """Gathering a file of the final fp32 weights on rank 0, beside offloaded state or that of CPU
    cores."""
    sampling_bytes: int
    """The processes that sample in an evaluation."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def peak_bytes(self) -> int:
        """The maximum over the phases."""
        return max(self.build_bytes, self.training_bytes, self.gather_bytes, self.sampling_bytes)


def host_memory(
    model: ModelConfig,
    layout: ParallelLayout,
    estimate: MemoryEstimate,
    ranks_per_host: int,
    *,
    is_cpu: bool,
) -> HostMemory:
    """Estimate the peak memory of the host of rank 0.

    Args:
        model: the shape.
        layout: the layout of a run.
        estimate: `peak_memory` of a process.
        ranks_per_host: ranks on a host, at most all.
        is_cpu: whether devices are CPU cores, which use the host's memory.
    """
    num_ranks = min(ranks_per_host, layout.world_size)
    libraries = num_ranks * _PROCESS_BYTES
    model_bytes = _FP32_BYTES * model.num_parameters
    resident = num_ranks * estimate.host_bytes
    if is_cpu:
        resident += num_ranks * estimate.total_bytes
    return HostMemory(
        build_bytes=libraries + building_bytes(model, layout, num_ranks, is_cpu=is_cpu),
        training_bytes=libraries + resident + _checkpoint_copy_bytes(model, layout, num_ranks),
        gather_bytes=libraries + resident + min(model_bytes, WEIGHT_FILE_BYTES),
        sampling_bytes=libraries + _sampling_bytes(model, num_ranks, is_cpu=is_cpu),
    )


def building_bytes(
    model: ModelConfig, layout: ParallelLayout, num_ranks: int, *, is_cpu: bool
) -> int:
    """Host memory of the ranks of a host while they build the model or read its weights.

    Each rank writes the weights that it holds to its device, through a buffer. ZeRO 3 partitions
    each parameter over all ranks, from a copy of the rank's part (docs/decisions/0027).
    """
    held_bytes = 0
    if is_cpu:
        num_held = model.num_parameters
        if layout.zero_stage == 3:
            largest = model.d_model * max(model.padded_vocab_size, 4 * model.d_model)
            num_held = (num_held + largest) // layout.world_size
        held_bytes = layout.weight_bytes * num_held
    return num_ranks * (BUILD_BUFFER_BYTES + held_bytes)


def _sampling_bytes(model: ModelConfig, num_ranks: int, *, is_cpu: bool) -> int:
    """Host memory of the processes that sample: a buffer for each GPU; on CPU cores the fp32
    weights, once, or for a small model once for each core."""
    if not is_cpu:
        return num_ranks * BUILD_BUFFER_BYTES
    is_small = model.num_parameters < SMALL_PARAMETERS
    return (num_ranks if is_small else 1) * _FP32_BYTES * model.num_parameters


def _checkpoint_copy_bytes(model: ModelConfig, layout: ParallelLayout, num_ranks: int) -> int:
    """The copy of the state that the ranks of a host write while training continues.

    Rank 0 writes the weights; with ZeRO each rank its share of the optimizer state, otherwise rank
    0 the whole state. ZeRO 3 saves weights only as the optimizer's master copies.
    """
    parameters = layout.tensor_parallel * _parameters_per_process(model, layout)
    weights = 0 if layout.zero_stage == 3 else layout.weight_bytes * parameters
    optimizer = _optimizer_bytes_per_parameter(layout) * parameters
    if layout.zero_stage:
        optimizer = optimizer * num_ranks // layout.world_size
    return weights + optimizer


def peak_memory(model: ModelConfig, layout: ParallelLayout, accumulation: int) -> MemoryEstimate:
    """Estimate the peak memory of a process.

    Args:
        layout: micro_batch and precision must not be auto.
        accumulation: micro-batches per optimizer step; from two on, accumulated gradients are live
            during the last micro-batch.

    Raises:
        ConfigError: micro_batch or precision is auto.
    """
    step = _Step(model, layout, accumulates=accumulation > 1)
    phases = (step.forward(), step.backward(), step.reduction(), step.optimizer_step())
    return max(phases, key=lambda estimate: estimate.total_bytes)


def checkpoint_bytes(model: ModelConfig, layout: ParallelLayout) -> int:
    """Size of a checkpoint inside a stage, of all processes together: weights, optimizer state.

    ZeRO 3 saves its weights only as the optimizer's master copies. Tensors that tensor parallelism
    replicates are saved by each rank of a replica.
    """
    weights = 0 if layout.zero_stage == 3 else layout.weight_bytes
    bytes_per_parameter = weights + _optimizer_bytes_per_parameter(layout)
    return layout.tensor_parallel * _parameters_per_process(model, layout) * bytes_per_parameter


def _parameters_per_process(model: ModelConfig, layout: ParallelLayout) -> int:
    """Before ZeRO. Tensor parallelism partitions a block's matrices (12 D^2) and MLP bias (4 D)."""
    partitioned = model.num_layers * (12 * model.d_model**2 + 4 * model.d_model)
    replicated = model.num_parameters - partitioned
    return replicated + partitioned // layout.tensor_parallel


def _optimizer_bytes_per_parameter(layout: ParallelLayout) -> int:
    """Before partitioning."""
    has_own_master_copy = layout.zero_stage == 0 and layout.precision == "fp32"
    return _MOMENTS_BYTES if has_own_master_copy else _MASTER_AND_MOMENTS_BYTES


@dataclass(frozen=True)
class _Step:
    """Sizes in bytes of an optimizer step, and the memory in each phase."""

    model: ModelConfig
    layout: ParallelLayout
    accumulates: bool

    def forward(self) -> MemoryEstimate:
        """End of the forward pass, in the head: activations of all blocks are live."""
        chunk_rows = max(1, self.model.d_model // 2)  # `model.loss.chunks`
        num_rows = min(chunk_rows, self.num_tokens)
        chunk = _HEAD_CHUNK_BYTES * num_rows * self.model.padded_vocab_size
        # Input and output of the last LayerNorm, the slice of the output that predicts a token,
        # and the gradient of that slice.
        hidden = self.width * (4 if self.layout.resolved_micro_batch > 1 else 3)
        uses_bucket = self.stage == 3 or (self.stage == 1 and self.accumulates)
        buffers = self.bucket if uses_bucket else 0
        activations = self.blocks + hidden + self.head_gradient + chunk
        return self._estimate("forward", self._accumulated_gradients(), activations, buffers)

    def backward(self) -> MemoryEstimate:
        """First block of the backward pass: activations of the other blocks are live."""
        tensor_parallel = self.layout.tensor_parallel
        # The gradient of an MLP matrix before it is accumulated.
        matrix = 4 * self.model.d_model**2 * self.layout.weight_bytes // tensor_parallel
        residual = (_BACKWARD_WIDTHS - _INNER_WIDTHS) * self.width
        inner = _INNER_WIDTHS * self.width // tensor_parallel
        activations = self.blocks + self.recomputed + self.width + residual + inner + matrix
        # From ZeRO 2 on, the head's gradient is in the bucket.
        head_gradient = self.head_gradient if self.stage < 2 else 0
        gradients = self._accumulated_gradients() or head_gradient
        return self._estimate("backward", gradients, activations, self.bucket)

    def reduction(self) -> MemoryEstimate:
        """Reduction after the embedding's backward pass: all gradients are live."""
        if self.stage == 0:  # Joined, after the embedding's gradient is freed.
            joined = self._limited_bytes(_STAGE_0_BUCKET_ELEMENTS)
            return self._estimate("reduction", self.all_gradients, 0, joined)
        embedding = self.model.padded_vocab_size * self.model.d_model * self.layout.weight_bytes
        reduced = self._reduced_gradients()
        if self.stage == 1:
            # The rank's share is copied; gradients that fit the bucket have moved there.
            moved = min(self.all_gradients, self.bucket)
            gradients = max(self.all_gradients, self.all_gradients - moved + reduced)
        else:
            gradients = reduced + (self._accumulated_gradients() if self.stage == 2 else 0)
        return self._estimate("reduction", gradients, self.width + embedding, self.bucket)

    def optimizer_step(self) -> MemoryEstimate:
        """Gradients are joined into a tensor and cast to fp32; on the host if offloaded."""
        gradients = self._reduced_gradients()
        if self.layout.offload != "none":
            return self._estimate("step", gradients, 0, self.bucket if self.stage == 3 else 0)
        num_updated = self.num_parameters // self.num_shards
        cast_bytes = 0 if self.layout.precision == "fp32" else _FP32_BYTES
        bytes_per_element = cast_bytes
        if self.stage > 0:
            bytes_per_element += self.layout.weight_bytes
        buffers = bytes_per_element * num_updated
        if self.stage == 3:
            limit = _STAGE_3_LIVE_ELEMENTS * (self.layout.weight_bytes + cast_bytes)
            buffers = self.bucket + min(buffers, limit)
        return self._estimate("step", gradients, 0, buffers)

    @property
    def stage(self) -> int:
        return self.layout.zero_stage

    @property
    def num_parameters(self) -> int:
        return _parameters_per_process(self.model, self.layout)

    @property
    def num_shards(self) -> int:
        """Shards of the optimizer state of a process' parameters."""
        return self.layout.world_size // self.layout.tensor_parallel if self.stage else 1

    @property
    def num_tokens(self) -> int:
        """Tokens of a micro-batch per process."""
        num_tokens = self.layout.resolved_micro_batch * self.model.context_length
        return num_tokens // self.layout.sequence_parallel

    @property
    def width(self) -> int:
        """A value per model dimension and token of a micro-batch."""
        return self.num_tokens * self.model.d_model * self.layout.weight_bytes

    @property
    def block(self) -> int:
        """Activations that a block keeps, with statistics of LayerNorm and attention."""
        partitioned_widths = _BLOCK_WIDTHS - _REPLICATED_WIDTHS
        partitioned = partitioned_widths * self.width // self.layout.tensor_parallel
        statistics = 2 + self.model.num_heads // self.layout.tensor_parallel
        replicated = _REPLICATED_WIDTHS * self.width
        return replicated + partitioned + self.num_tokens * _FP32_BYTES * statistics

    @property
    def recomputes_blocks(self) -> bool:
        """Whether every block is checkpointed. Larger intervals are planned as if none was."""
        return self.layout.activation_checkpoint_interval == 1

    @property
    def blocks(self) -> int:
        return self.model.num_layers * (self.width if self.recomputes_blocks else self.block)

    @property
    def recomputed(self) -> int:
        return self.block if self.recomputes_blocks else 0

    @property
    def head_gradient(self) -> int:
        """The gradient of the head, which the loss computes in the forward pass."""
        return self.model.padded_vocab_size * (self.model.d_model + 1) * self.layout.weight_bytes

    @property
    def bucket(self) -> int:
        """ZeRO's reduction bucket, allocated in full for any model size."""
        return BUCKET_ELEMENTS * self.layout.weight_bytes if self.stage else 0

    @property
    def all_gradients(self) -> int:
        return self.num_parameters * self.layout.weight_bytes

    def _reduced_gradients(self) -> int:
        """A process' share of the averaged gradients, if it is on the device."""
        return 0 if self.layout.offload != "none" else self.all_gradients // self.num_shards

    def _accumulated_gradients(self) -> int:
        """Gradients of earlier micro-batches. ZeRO 3 reserves their memory at all times."""
        if self.stage == 3:
            return self._reduced_gradients()
        if not self.accumulates:
            return 0
        return self.all_gradients if self.stage < 2 else self._reduced_gradients()

    def _limited_bytes(self, max_elements: int) -> int:
        return min(self.num_parameters, max_elements) * self.layout.weight_bytes

    def _estimate(
        self, phase: Phase, gradients: int, activations: int, buffers: int
    ) -> MemoryEstimate:
        bytes_per_parameter = _optimizer_bytes_per_parameter(self.layout)
        optimizer = bytes_per_parameter * self.num_parameters // self.num_shards
        weights = self.num_parameters * self.layout.weight_bytes
        host = 0
        if self.stage == 3:
            weights //= self.num_shards
            if self.layout.offload == "all":
                host = weights
                weights = 0
            if phase != "step":
                weights += self._limited_bytes(_STAGE_3_LIVE_ELEMENTS)
            if phase == "forward":
                buffers += self._limited_bytes(_STAGE_3_PREFETCH_ELEMENTS)
        if self.layout.offload != "none":
            # With fp32 gradients beside it (ZeRO-Offload, arXiv 2101.06840).
            host += optimizer + _FP32_BYTES * self.num_parameters // self.num_shards
            optimizer = 0
        return MemoryEstimate(
            phase=phase,
            weights_bytes=weights,
            gradients_bytes=gradients,
            optimizer_bytes=optimizer,
            activations_bytes=activations,
            buffers_bytes=buffers,
            host_bytes=host,
        )
