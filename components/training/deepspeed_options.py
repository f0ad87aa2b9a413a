"""The options of DeepSpeed's configuration, and what a stage does with each of them.

An option is merged into the configuration of the stage; or the recipe or the execution config
decides it, and a user's value must be equal; or it is refused, because it would change the result
of a stage or have no effect. DeepSpeed 0.19.8 ignores unknown options at the top level, so this
module lists all of them. A test compares the list with DeepSpeed's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import JsonValue

_STAGE = "--set training.stages.STAGE"
_EXECUTION = "--exec training"


class Decided(NamedTuple):
    """An option that the recipe, the execution config or the platform decides."""

    fix: str = "no setting changes it"
    """The field to change instead."""
    value: JsonValue = None
    """The value that the platform depends on, if no field decides it."""


class Refused(NamedTuple):
    """An option that cannot be used."""

    reason: str


_NOT_USED = Refused("the trainer does not use this part of DeepSpeed")
_OTHER_RESULT = Refused("it would change the result of a stage by more than rounding")
_OTHER_LAYOUT = Refused("it was not tested with the checkpoints of this platform")
_OWN_PRECISION = Refused(f"use {_EXECUTION}.precision")
_OWN_CHECKPOINTING = f"{_EXECUTION}.activation_checkpoint_interval"

_OFFLOAD_OPTIONS = {"pin_memory": bool, "buffer_count": int}
_CPU_ADAM = Refused("it requires DeepSpeed's own CPU Adam, which is not used")

OPTIONS: dict[str, Any] = {
    # Monitors.
    "tensorboard": {"enabled": bool, "output_path": str, "job_name": str},
    "csv_monitor": {"enabled": bool, "output_path": str, "job_name": str},
    "wandb": {"enabled": bool, "group": str, "team": str, "project": str},
    "comet": {
        "enabled": bool,
        "samples_log_interval": int,
        "project": str,
        "workspace": str,
        "experiment_name": str,
        "experiment_key": str,
        "online": bool,
        "mode": str,
        "api_key": Refused("secrets are not recorded with a run; set COMET_API_KEY"),
    },
    # Profiler and logs.
    "flops_profiler": {
        "enabled": bool,
        "recompute_fwd_factor": float,
        "profile_step": int,
        "module_depth": int,
        "top_modules": int,
        "detailed": bool,
        "output_file": Decided(value="observed/flops_profile.txt of the stage"),
    },
    "comms_logger": {
        "enabled": bool,
        "verbose": bool,
        "prof_all": bool,
        "debug": bool,
        "prof_ops": list,
    },
    "wall_clock_breakdown": bool,
    "memory_breakdown": bool,
    "dump_state": bool,
    "steps_per_print": int,
    "log_level": str,
    "timers": {"throughput": {"enabled": bool, "synchronized": bool}},
    # Precision and communication.
    "fp16": {
        "enabled": Decided(f"{_EXECUTION}.precision"),
        "loss_scale": float,
        "initial_scale_power": int,
        "loss_scale_window": int,
        "hysteresis": int,
        "consecutive_hysteresis": bool,
        "min_loss_scale": int,
        "auto_cast": Decided(value=False),
        "fp16_master_weights_and_grads": Decided(value=False),
    },
    "bf16": {
        "enabled": Decided(f"{_EXECUTION}.precision"),
        "immediate_grad_update": Decided(value=False),
        "check_grad_overflow": Decided(value=True),
        "bf16_master_weights_and_grads": Decided(value=False),
        "bf16_optimizer_states": Decided(value=False),
    },
    "torch_autocast": _OWN_PRECISION,
    "data_types": _OWN_PRECISION,
    "communication_data_type": str,
    "prescale_gradients": bool,
    "gradient_predivide_factor": float,
    "gradient_allreduce_op": Decided(value="mean"),
    "disable_python_gc": bool,
    # Batch, optimizer and schedule.
    "train_batch_size": Decided(f"{_STAGE}.global_batch_tokens"),
    "train_micro_batch_size_per_gpu": Decided(f"{_EXECUTION}.micro_batch"),
    "gradient_accumulation_steps": Decided(f"{_EXECUTION}.micro_batch"),
    "managed_gradient_accumulation": Decided(value=True),
    "gradient_clipping": Decided(f"{_STAGE}.gradient_clip"),
    "optimizer": {
        "type": Decided(value="AdamW"),
        "legacy_fusion": Decided(value=False),
        "params": {
            "lr": Decided(f"{_STAGE}.learning_rate"),
            "betas": Decided(f"{_STAGE}.beta1 and beta2"),
            "eps": Decided(f"{_STAGE}.eps"),
            "weight_decay": Decided(f"{_STAGE}.weight_decay"),
            "torch_adam": Decided(value=True),
            "fused": Decided(value=True),
            "adam_w_mode": Decided(value=True),
        },
    },
    "scheduler": Decided(
        f"{_STAGE}.warmup_steps, decay_steps, learning_rate and min_learning_rate",
        "the cosine schedule of the stage",
    ),
    "zero_allow_untested_optimizer": bool,
    "zero_force_ds_cpu_optimizer": Decided(value=False),
    # Parallelism and memory.
    "zero_optimization": {
        "stage": Decided(f"{_EXECUTION}.zero_stage"),
        "contiguous_gradients": bool,
        "reduce_scatter": bool,
        "reduce_bucket_size": int,
        "use_multi_rank_bucket_allreduce": bool,
        "allgather_partitions": bool,
        "allgather_bucket_size": int,
        "overlap_comm": bool,
        "offload_param": {
            "device": Decided(f"{_EXECUTION}.offload_parameters"),
            "nvme_path": Decided(f"{_EXECUTION}.nvme_folder"),
            **_OFFLOAD_OPTIONS,
            "buffer_size": int,
            "max_in_cpu": int,
        },
        "offload_optimizer": {
            "device": Decided(f"{_EXECUTION}.offload_optimizer"),
            "nvme_path": Decided(f"{_EXECUTION}.nvme_folder"),
            **_OFFLOAD_OPTIONS,
            "pipeline_read": bool,
            "pipeline_write": bool,
            "fast_init": bool,
            "ratio": _CPU_ADAM,
            "super_offload": _CPU_ADAM,
            "cpuadam_cores_perc": _CPU_ADAM,
        },
        "stage3_prefetch_bucket_size": int,
        "stage3_param_persistence_threshold": int,
        "stage3_model_persistence_threshold": int,
        "stage3_max_live_parameters": int,
        "stage3_max_reuse_distance": int,
        "stage3_module_granularity_threshold": int,
        "stage3_use_all_reduce_for_fetch_params": bool,
        "stage3_allgather_sequential": bool,
        "stage3_gather_16bit_weights_on_model_save": bool,
        "stage3_gather_fp16_weights_on_model_save": Refused(
            "use stage3_gather_16bit_weights_on_model_save"
        ),
        "ignore_unused_parameters": bool,
        "memory_efficient_linear": bool,
        "log_trace_cache_warnings": bool,
        "enable_sanity_checks": bool,
        "compute_grad_norm": Decided(value=True),
        "load_from_fp32_weights": Decided(value=True),
        "elastic_checkpoint": Decided(value=False),
        "legacy_stage1": Decided(value=False),
        "sub_group_size": Decided(value=1_000_000_000),
        "round_robin_gradients": Decided(value=False),
        "parameter_alignment": Decided(value=False),
        "zero_hpz_partition_size": Decided(value=1),
        "zero_quantized_weights": Decided(value=False),
        "zero_quantized_nontrainable_weights": Decided(value=False),
        "zero_quantized_gradients": Decided(value=False),
        "pipeline_loading_checkpoint": Decided(value=False),
        "override_module_apply": Decided(value=True),
        "zenflow": _OTHER_RESULT,
        "leaf_module": _NOT_USED,
        "save_muon_momentum_buffer_in_memory": _NOT_USED,
        **dict.fromkeys(
            ("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory"),
            Refused(f"use {_EXECUTION}.offload_optimizer and offload_parameters"),
        ),
    },
    "aio": {
        "block_size": int,
        "queue_depth": int,
        "intra_op_parallelism": int,
        "single_submit": bool,
        "overlap_events": bool,
        "use_gds": bool,
    },
    "tensor_parallel": {"autotp_size": Decided(f"{_EXECUTION}.tensor_parallel")},
    "sequence_parallel_size": Decided(f"{_EXECUTION}.sequence_parallel"),
    "activation_checkpointing": {
        # Only `deepspeed.checkpointing.checkpoint` reads these, and the model does not call it.
        "partition_activations": Decided(_OWN_CHECKPOINTING, False),
        "contiguous_memory_optimization": Decided(_OWN_CHECKPOINTING, False),
        "cpu_checkpointing": Decided(_OWN_CHECKPOINTING, False),
        "number_checkpoints": Decided(_OWN_CHECKPOINTING),
        "synchronize_checkpoint_boundary": Decided(_OWN_CHECKPOINTING, False),
        "profile": Decided(_OWN_CHECKPOINTING, False),
    },
    # The rest of DeepSpeed's options.
    "autotuning": Refused("it ends the ranks after its measurements; use `codegen plan`"),
    "checkpoint": _OTHER_LAYOUT,
    "datastates_ckpt": _OTHER_LAYOUT,
    "compile": Refused(f"use {_EXECUTION}.compiled"),
    "data_efficiency": _OTHER_RESULT,
    "dataloader_drop_last": _NOT_USED,
    "disable_allgather": _NOT_USED,
    "expert_parallel": _NOT_USED,
    "hybrid_engine": _NOT_USED,
    "pipeline": _NOT_USED,
    "seq_parallel_communication_data_type": _NOT_USED,
    "use_data_before_expert_parallelism": _NOT_USED,
    "vocabulary_size": _NOT_USED,
    "weight_quantization": _OTHER_RESULT,
}
"""Options of DeepSpeed 0.19.8: the type of an option that is merged, or why it is not."""

LOG_OPTIONS = (
    *("tensorboard", "csv_monitor", "wandb", "comet", "flops_profiler", "comms_logger"),
    *("wall_clock_breakdown", "memory_breakdown", "dump_state", "steps_per_print", "log_level"),
    "timers",
)
"""Options that only observe a stage."""
