"""The DeepSpeed configuration of a stage, from its identity and its place: one pure function, with a golden file.

Only what DeepSpeed has to know is set. The learning rate is not scheduled by DeepSpeed (see `schedule`), and parameter
groups (with and without decay) are built in `engine`, so `lr` and `weight_decay` here are what those groups start from.
"""

from __future__ import annotations

import math
from typing import Any

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.training.config import StageConfig, TrainingExecution

BUCKET_ELEMENTS = 50_000_000
"""Gradient elements per reduction (200 MB in fp32); assumption: large enough that a small model needs one bucket."""

_CUTS = [
    {
        "patterns": [r".*\.qkv\.weight$"],
        "partition_type": "column",
        "shape": [3, -1],
        "partition_dim": 0,
    },
    {"patterns": [r".*\.mlp_in\.(weight|bias)$"], "partition_type": "column"},
    {"patterns": [r".*\.(attention_out|mlp_out)\.(weight|bias)$"], "partition_type": "row"},
]
"""Where AutoTP cuts our blocks: queries, keys and values of some heads each, and what reads these heads (Megatron-LM, arXiv
1909.08053, section 3). It finds no cut by itself in a model that it does not know. Embedding and head stay whole."""


def num_sequences_per_step(stage: StageConfig, context_length: int) -> int:
    """Sequences in one global batch.

    Raises:
        ConfigError: `global_batch_tokens` is no multiple of the context length.
    """
    sequences, rest = divmod(stage.global_batch_tokens, context_length)
    if rest or not sequences:
        nearest = max(1, round(stage.global_batch_tokens / context_length)) * context_length
        raise ConfigError(
            f"global_batch_tokens is {stage.global_batch_tokens:,}",
            expected=f"a multiple of the context length, {context_length:,}",
            fix=f"set global_batch_tokens to {nearest:,}",
        )
    return sequences


def accumulation_steps(stage: StageConfig, place: TrainingExecution, context_length: int) -> int:
    """Micro-batches that every process sums up for one optimizer step.

    Raises:
        ConfigError: the global batch does not divide over processes and micro-batches; a micro-batch that does is named.
    """
    per_process, micro_batch = (
        sequences_per_process(stage, place, context_length),
        place.num_sequences,
    )
    if per_process % micro_batch:
        fitting = max(
            n for n in range(1, min(micro_batch, per_process) + 1) if per_process % n == 0
        )
        raise ConfigError(
            f"micro_batch is {micro_batch}, and each of {place.world_size} processes has {per_process} sequences",
            expected="a micro-batch that divides the sequences of a process",
            fix=f"set micro_batch to {fitting}",
        )
    return per_process // micro_batch


def require_shares(model: ModelConfig, place: TrainingExecution) -> None:
    """Check that the ranks of a copy can share it.

    Raises:
        ConfigError: its heads, or positions, do not divide over them.
    """
    shared = {"heads": model.num_heads}
    if place.sequence_parallel > 1:
        shared["positions"] = model.context_length
    for what, number in shared.items():
        if number % place.ranks_per_replica:
            raise ConfigError(
                f"the model has {number} {what}, and {place.ranks_per_replica} ranks share a copy",
                expected=f"{what} that divide evenly over them",
                fix=f"set tensor_parallel or sequence_parallel to {math.gcd(number, place.ranks_per_replica)}",
            )


def require_division(stage: StageConfig, place: TrainingExecution, context_length: int) -> None:
    """Check that the batch can be divided over the place, also where its micro-batch is not settled yet.

    Raises:
        ConfigError: it does not divide over the copies, or their part not into micro-batches.
    """
    sequences_per_process(stage, place, context_length)
    if place.micro_batch != "auto":
        accumulation_steps(stage, place, context_length)


def sequences_per_process(stage: StageConfig, place: TrainingExecution, context_length: int) -> int:
    """The part of the global batch that each copy of the model computes: several processes together, where they share one.

    Raises:
        ConfigError: the batch does not divide over the copies.
    """
    sequences, replicas = num_sequences_per_step(stage, context_length), place.num_replicas
    per_process, rest = divmod(sequences, replicas)
    if rest:
        fitting = (
            max(n for n in range(1, min(replicas, sequences + 1)) if sequences % n == 0)
            * place.ranks_per_replica
        )
        raise ConfigError(
            f"a step has {sequences} sequences ({stage.global_batch_tokens:,} tokens) and world_size is {place.world_size}",
            expected="a batch that divides evenly over the processes",
            fix=f"set world_size to {fitting}, or global_batch_tokens to a multiple of {replicas * context_length:,}",
        )
    return per_process


def deepspeed_config(
    stage: StageConfig, place: TrainingExecution, context_length: int, *, on_gpu: bool, bf16: bool
) -> dict[str, Any]:
    """What `deepspeed.initialize` gets as its configuration: plain JSON values.

    Args:
        on_gpu: communication overlaps with computing, where there is a second stream for it.
        bf16: products and gradients are bf16; weights and moments of the optimizer are fp32 anyway.

    Raises:
        ConfigError: the global batch does not divide over the place.
    """
    config: dict[str, Any] = {
        "train_batch_size": num_sequences_per_step(stage, context_length),
        "train_micro_batch_size_per_gpu": place.num_sequences,
        "gradient_accumulation_steps": accumulation_steps(stage, place, context_length),
        "gradient_clipping": stage.gradient_clip,
        "bf16": {"enabled": bf16},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": stage.learning_rate,
                "betas": [stage.beta1, stage.beta2],
                "eps": stage.eps,
                "weight_decay": stage.weight_decay,
                "torch_adam": True,  # DeepSpeed's own Adam for the CPU is compiled on first use and needs a C++ compiler.
                "fused": True,  # One pass over memory: 1.5 ms instead of 14 for 1.8M parameters on one core (measured).
            },
        },
        "zero_optimization": _zero(place, on_gpu, bf16),
        "zero_force_ds_cpu_optimizer": False,  # An offloaded optimizer may be torch's: it needs no compiler.
    }
    if place.ranks_per_replica > 1:
        del config[
            "train_batch_size"
        ]  # DeepSpeed multiplies by all ranks, not by copies; it only reports it.
    if place.tensor_parallel > 1:
        cuts = {"use_default_specs": False, "layer_specs": _CUTS}
        config["tensor_parallel"] = {"autotp_size": place.tensor_parallel, "partition_config": cuts}
    return config


def _zero(place: TrainingExecution, on_gpu: bool, bf16: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": max(
            place.zero_stage, int(bf16)
        ),  # It is ZeRO that keeps the fp32 copy of bf16 weights.
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
        "overlap_comm": on_gpu,
    }
    for name, where in (
        ("offload_optimizer", place.offload_optimizer),
        ("offload_param", place.offload_parameters),
    ):
        if where != "none":
            zero[name] = {"device": where, "pin_memory": on_gpu}
            if where == "nvme":
                zero[name]["nvme_path"] = place.nvme_folder
    return zero
