"""The division of the global batch, and the DeepSpeed configuration of a stage, as pure functions.

Only settings that differ from DeepSpeed's defaults are passed, and the user's options. DeepSpeed
does not schedule the learning rate (see `schedule`); `lr` and `weight_decay` are the initial values
of the parameter groups that `distributed.build_engine` makes.
"""

from __future__ import annotations

import math
from typing import Any

from components.core.errors import ConfigError
from components.core.extras import require_extra
from components.model.config import ModelConfig
from components.training.config import Precision, StageConfig, TrainingExecution
from components.training.deepspeed_merge import (
    FIELD,
    check_conflicts,
    merge_options,
    required_extras,
)

BUCKET_ELEMENTS = 50_000_000
"""Gradient elements per reduction (200 MB in fp32); assumption: large enough that a small model
needs a single bucket."""

_AUTOTP_LAYER_SPECS = [
    {
        "patterns": [r".*\.qkv\.weight$"],
        "partition_type": "column",
        "shape": [3, -1],
        "partition_dim": 0,
    },
    {"patterns": [r".*\.mlp_in\.(weight|bias)$"], "partition_type": "column"},
    {"patterns": [r".*\.(attention_out|mlp_out)\.(weight|bias)$"], "partition_type": "row"},
]
"""How AutoTP partitions our blocks (Megatron-LM, arXiv 1909.08053, section 3): queries, keys and
values by heads, MLP by columns, the next projections by rows. Embedding and head are replicated."""


def num_sequences_per_step(stage: StageConfig, context_length: int) -> int:
    """Sequences in a global batch.

    Raises:
        ConfigError: `global_batch_tokens` is not a multiple of the context length.
    """
    num_sequences, remainder = divmod(stage.global_batch_tokens, context_length)
    if remainder or not num_sequences:
        nearest = max(1, round(stage.global_batch_tokens / context_length)) * context_length
        raise ConfigError(
            f"global_batch_tokens is {stage.global_batch_tokens:,}",
            expected=f"a multiple of the context length, {context_length:,}",
            fix=f"set global_batch_tokens to {nearest:,}",
        )
    return num_sequences


def sequences_per_replica(
    stage: StageConfig, execution: TrainingExecution, context_length: int
) -> int:
    """Sequences of the global batch that each model replica computes.

    Raises:
        ConfigError: the batch does not divide over the replicas.
    """
    num_sequences = num_sequences_per_step(stage, context_length)
    num_replicas = execution.num_replicas
    if num_sequences % num_replicas:
        max_replicas = _largest_divisor(num_sequences, num_replicas)
        raise ConfigError(
            f"a step has {num_sequences} sequences ({stage.global_batch_tokens:,} tokens) and "
            f"world_size is {execution.world_size}",
            expected="a batch that divides evenly over the processes",
            fix=f"set world_size to {max_replicas * execution.ranks_per_replica}, or "
            f"global_batch_tokens to a multiple of {num_replicas * context_length:,}",
        )
    return num_sequences // num_replicas


def accumulation_steps(
    stage: StageConfig, execution: TrainingExecution, context_length: int
) -> int:
    """Micro-batches that every process accumulates for an optimizer step.

    Raises:
        ConfigError: the batch does not divide over replicas and micro-batches.
    """
    num_sequences = sequences_per_replica(stage, execution, context_length)
    micro_batch = execution.resolved_micro_batch
    if num_sequences % micro_batch:
        raise ConfigError(
            f"micro_batch is {micro_batch}, and each of {execution.world_size} processes has "
            f"{num_sequences} sequences",
            expected="a micro-batch that divides the sequences of a process",
            fix=f"set micro_batch to {_largest_divisor(num_sequences, micro_batch)}",
        )
    return num_sequences // micro_batch


def check_batch_division(
    stage: StageConfig, execution: TrainingExecution, context_length: int
) -> None:
    """Check that the batch divides over the processes, and into micro-batches unless auto.

    Raises:
        ConfigError: it does not.
    """
    sequences_per_replica(stage, execution, context_length)
    if execution.micro_batch != "auto":
        accumulation_steps(stage, execution, context_length)


def check_model_division(model: ModelConfig, execution: TrainingExecution) -> None:
    """Check that the model divides over the ranks of a replica.

    Raises:
        ConfigError: its heads or positions do not.
    """
    sizes = {"heads": model.num_heads}
    if execution.sequence_parallel > 1:
        sizes["positions"] = model.context_length
    for name, size in sizes.items():
        if size % execution.ranks_per_replica:
            divisor = math.gcd(size, execution.ranks_per_replica)
            raise ConfigError(
                f"the model has {size} {name}, and {execution.ranks_per_replica} ranks share a "
                "replica",
                expected=f"{name} that divide evenly over the ranks of a replica",
                fix=f"set tensor_parallel or sequence_parallel to {divisor}",
            )


def deepspeed_config(
    stage: StageConfig,
    execution: TrainingExecution,
    context_length: int,
    *,
    on_gpu: bool,
    precision: Precision,
) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`, as plain JSON values.

    Args:
        on_gpu: communication overlaps with computation, on a second stream.
        precision: of products and gradients; weights and optimizer state are fp32.

    Raises:
        ConfigError: the global batch does not divide, or the user's options contradict the run.
    """
    options = execution.deepspeed_options
    check_conflicts(options, _decided_values(stage, execution, context_length, precision))
    config: dict[str, Any] = {
        "train_batch_size": num_sequences_per_step(stage, context_length),
        "train_micro_batch_size_per_gpu": execution.resolved_micro_batch,
        "gradient_accumulation_steps": accumulation_steps(stage, execution, context_length),
        "gradient_clipping": stage.gradient_clip,
        "bf16": {"enabled": precision == "bf16"},
        "optimizer": {
            "type": "AdamW",
            "params": {
                **_adam_parameters(stage),
                # DeepSpeed's own CPU Adam is compiled on first use and needs a C++ compiler.
                "torch_adam": True,
                # A single pass over memory: 1.5 ms instead of 14 for 1.8M parameters (measured).
                "fused": True,
            },
        },
        "zero_optimization": _zero_config(execution, on_gpu=on_gpu, precision=precision),
        # An offloaded optimizer may be torch's, which needs no compiler.
        "zero_force_ds_cpu_optimizer": False,
    }
    if precision == "fp16":
        config["fp16"] = {"enabled": True}
    if execution.ranks_per_replica > 1:
        # DeepSpeed would multiply by ranks instead of replicas. It only reports the value.
        del config["train_batch_size"]
    if execution.tensor_parallel > 1:
        config["tensor_parallel"] = {
            "autotp_size": execution.tensor_parallel,
            "partition_config": {"use_default_specs": False, "layer_specs": _AUTOTP_LAYER_SPECS},
        }
    return merge_options(config, options)


def effective_zero_stage(zero_stage: int, precision: Precision) -> int:
    """The ZeRO stage that DeepSpeed runs: at least 1 in bf16 and fp16, for fp32 weights."""
    return max(zero_stage, int(precision != "fp32"))


def check_deepspeed_options(
    stage: StageConfig, execution: TrainingExecution, context_length: int
) -> None:
    """Check the user's DeepSpeed options and the precision before the ranks start.

    Raises:
        ConfigError: options contradict the run, a monitor requires an extra that is not installed,
            or this CPU does not support fp16.
    """
    options = execution.deepspeed_options
    for monitor, extra in required_extras(options):
        require_extra(extra, f"{FIELD}.{monitor}")
    precision = "fp32" if execution.precision == "auto" else execution.precision
    check_conflicts(options, _decided_values(stage, execution, context_length, precision))
    if execution.launcher == "local":
        check_fp16_support(execution)


def check_fp16_support(execution: TrainingExecution) -> None:
    """Check that the device of this host supports fp16, if that is the precision.

    Raises:
        ConfigError: it is a CPU without fp16 instructions.
    """
    if execution.precision != "fp16" or execution.uses_gpu:
        return
    import torch  # Most callers do not need it.

    if not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise ConfigError(
            "precision is fp16, and DeepSpeed does not support fp16 on this CPU",
            expected="a GPU, or a CPU with fp16 instructions (AVX-512 FP16 or AMX FP16)",
            fix="set --exec training.precision=fp32 or bf16, and remove fp16 from "
            f"{FIELD}, or set --exec training.device=cuda",
        )


def _decided_values(
    stage: StageConfig, execution: TrainingExecution, context_length: int, precision: Precision
) -> dict[str, Any]:
    """Return the values that recipe and execution config decide, named as DeepSpeed's options."""
    has_micro_batch = execution.micro_batch != "auto"
    return {
        "train_batch_size": num_sequences_per_step(stage, context_length),
        "train_micro_batch_size_per_gpu": execution.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(stage, execution, context_length)
        if has_micro_batch
        else "auto",
        "gradient_clipping": stage.gradient_clip,
        "optimizer": {"params": _adam_parameters(stage)},
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": {
            "stage": execution.zero_stage,
            "offload_optimizer": {
                "device": execution.offload_optimizer,
                "nvme_path": execution.nvme_folder,
            },
            "offload_param": {
                "device": execution.offload_parameters,
                "nvme_path": execution.nvme_folder,
            },
        },
        "tensor_parallel": {"autotp_size": execution.tensor_parallel},
        "sequence_parallel_size": execution.sequence_parallel,
    }


def _adam_parameters(stage: StageConfig) -> dict[str, Any]:
    return {
        "lr": stage.learning_rate,
        "betas": [stage.beta1, stage.beta2],
        "eps": stage.eps,
        "weight_decay": stage.weight_decay,
    }


def _zero_config(
    execution: TrainingExecution, *, on_gpu: bool, precision: Precision
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "stage": effective_zero_stage(execution.zero_stage, precision),
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
        "overlap_comm": on_gpu,
    }
    devices = {
        "offload_optimizer": execution.offload_optimizer,
        "offload_param": execution.offload_parameters,
    }
    for name, device in devices.items():
        if device == "none":
            continue
        config[name] = {"device": device, "pin_memory": on_gpu}
        if device == "nvme":
            config[name]["nvme_path"] = execution.nvme_folder
    return config


def _largest_divisor(number: int, upper_bound: int) -> int:
    """The largest divisor of `number` that is at most `upper_bound`."""
    for divisor in range(min(number, upper_bound), 0, -1):
        if number % divisor == 0:
            return divisor
    return 1
