"""A user's DeepSpeed options: merged, in conflict with the run, unknown or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.training import STAGE

from components.core.errors import ConfigError
from components.training.config import TrainingExecution
from components.training.deepspeed_config import check_deepspeed_options, deepspeed_config
from components.training.deepspeed_options import OPTIONS, Decided
from components.training.monitors import with_log_paths

PLAIN = TrainingExecution(world_size=2, micro_batch=4, zero_stage=2, precision="fp32")


def execution(options: dict[str, Any], **fields: Any) -> TrainingExecution:
    return PLAIN.replace(deepspeed_config=options, **fields)


def merged(options: dict[str, Any], **fields: Any) -> dict[str, Any]:
    resolved = execution(options, **fields)
    precision: Any = resolved.precision
    return deepspeed_config(STAGE, resolved, 64, on_gpu=False, precision=precision)


def test_options_are_merged_into_the_configuration_of_a_stage() -> None:
    options = {
        "csv_monitor": {"enabled": True, "job_name": "trial"},
        "zero_optimization": {"reduce_bucket_size": 5e6, "contiguous_gradients": False},
        "steps_per_print": 10,
    }
    plain = deepspeed_config(STAGE, PLAIN, 64, on_gpu=False, precision="fp32")
    config = merged(options)
    assert config["csv_monitor"] == {"enabled": True, "job_name": "trial"}
    assert config["steps_per_print"] == 10
    assert config["zero_optimization"] == {
        **plain["zero_optimization"],
        "reduce_bucket_size": 5_000_000,
        "contiguous_gradients": False,
    }
    assert type(config["zero_optimization"]["reduce_bucket_size"]) is int
    others = plain.keys() - {"zero_optimization"}
    assert {name: config[name] for name in others} == {name: plain[name] for name in others}


def test_equal_and_automatic_values_change_nothing() -> None:
    """The shape of the examples in DeepSpeed's and transformers' documentation."""
    options = {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": "auto"},
        },
        "scheduler": {"type": "auto", "params": {"warmup_min_lr": "auto"}},
        "fp16": {"enabled": False, "loss_scale": 0, "initial_scale_power": 16},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": {"device": "none", "pin_memory": True},
        },
        "activation_checkpointing": {"partition_activations": False, "number_checkpoints": None},
    }
    assert merged(options) == deepspeed_config(STAGE, PLAIN, 64, on_gpu=False, precision="fp32")


def test_one_error_names_every_conflict_with_both_values_and_the_field_to_change() -> None:
    options = {
        "train_batch_size": 32,
        "gradient_clipping": 0.5,
        "optimizer": {"type": "Adam", "params": {"lr": 2e-2}},
        "scheduler": {"type": "WarmupLR"},
        "zero_optimization": {"stage": 3},
        "tensor_parallel": {"autotp_size": 2},
        "activation_checkpointing": {"cpu_checkpointing": True},
        "csv_monitor": {"enabled": True},
    }
    with pytest.raises(ConfigError) as error:
        merged(options)
    conflicts = error.value.got.partition(": ")[2].split("; ")
    assert conflicts == [
        "train_batch_size is 32 instead of 16 (--set training.stages.STAGE.global_batch_tokens)",
        "gradient_clipping is 0.5 instead of 1.0 (--set training.stages.STAGE.gradient_clip)",
        "optimizer.type is 'Adam' instead of 'AdamW' (no setting changes it)",
        "optimizer.params.lr is 0.02 instead of 0.01 (--set training.stages.STAGE.learning_rate)",
        "scheduler is {'type': 'WarmupLR'} instead of 'the cosine schedule of the stage' "
        "(--set training.stages.STAGE.warmup_steps, decay_steps, learning_rate and "
        "min_learning_rate)",
        "zero_optimization.stage is 3 instead of 2 (--exec training.zero_stage)",
        "tensor_parallel.autotp_size is 2 instead of 1 (--exec training.tensor_parallel)",
        "activation_checkpointing.cpu_checkpointing is True instead of False "
        "(--exec training.activation_checkpoint_interval)",
    ]


def test_conflicts_are_found_before_the_micro_batch_is_resolved() -> None:
    options = {"train_micro_batch_size_per_gpu": 4, "train_batch_size": 16}
    with pytest.raises(ConfigError, match="train_micro_batch_size_per_gpu is 4 instead of 'auto'"):
        check_deepspeed_options(STAGE, execution(options, micro_batch="auto"), 64)
    del options["train_micro_batch_size_per_gpu"]
    check_deepspeed_options(STAGE, execution(options, micro_batch="auto"), 64)


def test_one_error_names_every_option_that_is_unknown_refused_or_of_the_wrong_type() -> None:
    options = {
        "csv_monitr": {"enabled": True},
        "zero_optimization": {"reduce_bucket": 1, "allgather_bucket_size": 0.5},
        "wandb": {"enabled": "yes"},
        "tensorboard": True,
        "autotuning": {"enabled": True},
        "comet": {"api_key": "s3cr3t"},
    }
    with pytest.raises(ConfigError) as error:
        execution(options)
    problems = error.value.got.partition(": ")[2]
    for expected in (
        "csv_monitr is no option of DeepSpeed; did you mean csv_monitor?",
        "zero_optimization.reduce_bucket is no option of DeepSpeed; did you mean "
        "zero_optimization.reduce_bucket_size?",
        "zero_optimization.allgather_bucket_size is 0.5 instead of an integer",
        "wandb.enabled is 'yes' instead of true or false",
        "tensorboard is True instead of an object",
        "autotuning is not supported",
        "comet.api_key is not supported: secrets",
    ):
        assert expected in problems
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("monitor", ["tensorboard", "wandb", "comet"])
def test_an_enabled_monitor_names_its_extra_if_the_package_is_missing(
    monitor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml" if monitor == "comet" else monitor, None)
    check_deepspeed_options(STAGE, execution({monitor: {"enabled": False}}), 64)
    with pytest.raises(ConfigError) as error:
        check_deepspeed_options(STAGE, execution({monitor: {"enabled": True}}), 64)
    assert f"training.deepspeed_config.{monitor} requires" in error.value.got
    assert f"`{monitor}`" in error.value.expected


def test_a_path_is_replaced_by_the_content_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ds.json").write_text(json.dumps({"csv_monitor": {"enabled": True}, "fp16": "auto"}))
    parsed = TrainingExecution.parse({"deepspeed_config": "ds.json"})
    assert parsed.deepspeed_config == {"csv_monitor": {"enabled": True}}
    Path("ds.json").unlink()
    assert TrainingExecution.parse(parsed.model_dump()) == parsed
    with pytest.raises(ConfigError, match="No such file"):
        TrainingExecution.parse({"deepspeed_config": "ds.json"})
    Path("ds.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"ds.json is \[1\]"):
        TrainingExecution.parse({"deepspeed_config": "ds.json"})
    Path("ds.json").write_text("{")
    with pytest.raises(ConfigError, match=r"^ds.json is not valid JSON"):
        TrainingExecution.parse({"deepspeed_config": "ds.json"})


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "auto"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"bf16": {"enabled": True}}, "bf16"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": False}}, "fp16"),
        ({"bf16": {"enabled": False}}, "fp32"),
        ({"fp16": {"enabled": False}}, "auto"),
        ({"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}}, "auto"),
    ],
)
def test_enabled_fp16_or_bf16_selects_the_precision(
    options: dict[str, Any], precision: str
) -> None:
    assert TrainingExecution.parse({"deepspeed_config": options}).precision == precision


def test_another_precision_than_that_of_the_run_is_a_conflict() -> None:
    for precision in ("fp32", "bf16"):
        with pytest.raises(ConfigError, match=r"fp16.enabled is True instead of False"):
            merged({"fp16": {"enabled": True}}, precision=precision)
    with pytest.raises(ConfigError, match="fp16 and bf16"):
        execution({"fp16": {"enabled": True}, "bf16": {"enabled": True}})


def test_loss_scaling_is_merged_in_fp16_only() -> None:
    scaling = {"initial_scale_power": 12, "hysteresis": 1}
    assert merged({"fp16": scaling}, precision="fp16")["fp16"] == {"enabled": True, **scaling}
    assert "fp16" not in merged({"fp16": scaling})


@pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU supports fp16")
def test_fp16_on_a_cpu_without_fp16_is_refused_before_the_run() -> None:
    for fields in ({"precision": "fp16"}, {"deepspeed_config": {"fp16": {"enabled": True}}}):
        values = {"device": "cpu", "world_size": 2, **fields}
        with pytest.raises(ConfigError, match="fp16 on this CPU"):
            check_deepspeed_options(STAGE, TrainingExecution.parse(values), 64)


def test_logs_have_separate_paths_for_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage, monitors = tmp_path / "stage", tmp_path / "monitors" / "tiny-nl-0123456789ab"
    config = {
        "flops_profiler": {"enabled": True},
        "csv_monitor": {"enabled": True},
        "tensorboard": {"enabled": True, "output_path": "logs", "job_name": "trial"},
        "steps_per_print": 1,
    }
    assert with_log_paths(config, stage, monitors) == {
        "flops_profiler": {
            "enabled": True,
            "output_file": f"{stage}/observed/flops_profile.txt",
        },
        "csv_monitor": {
            "enabled": True,
            "output_path": str(monitors),
            "job_name": "csv_monitor",
        },
        "tensorboard": {
            "enabled": True,
            "output_path": f"{tmp_path}/logs/trial",
            "job_name": "tiny-nl-0123456789ab",
        },
        "steps_per_print": 1,
    }


def test_the_options_of_every_section_are_those_of_deepspeed() -> None:
    """An upgrade of DeepSpeed with another option fails here."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
    from deepspeed.runtime.activation_checkpointing.config import ACT_CHKPT_DEFAULT
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    zero = OPTIONS["zero_optimization"]
    sections = [
        (OPTIONS["tensorboard"], TensorBoardConfig),
        (OPTIONS["csv_monitor"], CSVConfig),
        (OPTIONS["wandb"], WandbConfig),
        (OPTIONS["comet"], CometConfig),
        (OPTIONS["comms_logger"], CommsLoggerConfig),
        (OPTIONS["timers"]["throughput"], DeepSpeedThroughputTimerConfig),
        (OPTIONS["fp16"], DeepSpeedFP16Config),
        (OPTIONS["bf16"], DeepSpeedBF16Config),
        (zero, DeepSpeedZeroConfig),
        (zero["offload_param"], DeepSpeedZeroOffloadParamConfig),
        (zero["offload_optimizer"], DeepSpeedZeroOffloadOptimizerConfig),
    ]
    for options, model in sections:
        fields = model.model_fields
        assert set(options) == {field.alias or name for name, field in fields.items()}, model
    assert set(OPTIONS["flops_profiler"]) == set(vars(DeepSpeedFlopsProfilerConfig({})))
    assert set(OPTIONS["aio"]) == set(AIO_DEFAULT_DICT)
    assert set(OPTIONS["activation_checkpointing"]) == set(ACT_CHKPT_DEFAULT)


def test_the_fixed_values_are_defaults_of_deepspeed() -> None:
    """Options that are not passed have the value that the platform depends on."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    sections = {
        "fp16": DeepSpeedFP16Config(),
        "bf16": DeepSpeedBF16Config(),
        "zero_optimization": DeepSpeedZeroConfig(),
    }
    num_checked = 0
    for section, defaults in sections.items():
        for name, option in OPTIONS[section].items():
            if isinstance(option, Decided) and option.value is not None:
                assert getattr(defaults, name) == option.value, name
                num_checked += 1
    assert num_checked > 10


class ReadKeys(dict[str, Any]):
    """A dictionary that records the keys that are read."""

    def __init__(self, values: dict[str, Any], keys: set[str]) -> None:
        super().__init__(values)
        self.read = keys

    def __copy__(self) -> ReadKeys:
        return ReadKeys(dict(self), self.read)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        names = super().keys()
        recorder = self

        class Keys:
            def __contains__(self, key: object) -> bool:
                recorder.read.add(str(key))
                return key in names

            def __iter__(self) -> Any:
                return iter(names)

        return Keys()


def test_every_option_at_the_top_level_that_deepspeed_reads_is_known() -> None:
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS, DeepSpeedConfig

    keys: set[str] = set()
    DeepSpeedConfig(ReadKeys({"train_batch_size": 1, "unknown_option": 1}, keys))
    old_names = {"bfloat16", *_REMOVED_TOP_LEVEL_CONFIG_KEYS}
    assert len(keys) > 40
    assert keys - old_names <= set(OPTIONS)
    assert "unknown_option" not in keys, "DeepSpeed ignores it"
