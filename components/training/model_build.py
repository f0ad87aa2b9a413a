"""Builds the model of a stage from new weights or a checkpoint, on few bytes of host memory.

Weights are written to the device of the rank, in the type of the engine's weights, a few megabytes
at a time. With ZeRO 3 a rank writes its partition of every parameter only. Without it, every rank
has the whole model on its device, which is host memory on a CPU. Not covered: with tensor
parallelism the whole model is on the device of every rank until DeepSpeed partitions it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.zero import Init
from torch import nn

from components.core.errors import ConfigError
from components.model.config import Dtype, ModelConfig
from components.model.huggingface.checkpoint_reader import StoredWeights
from components.model.huggingface.checkpoint_writer import TORCH_DTYPES
from components.model.transformer import CodeGen
from components.model.weights import (
    InitialWeights,
    WeightSource,
    allocate_parameters,
    fill_parameters,
)
from components.training.config import Precision
from components.training.run_file import StageRun

_PARTITIONED_WEIGHTS = 3
"""The ZeRO stage that partitions weights."""


def open_weights(run: StageRun) -> WeightSource:
    """The weights that a stage starts from; files are opened and checked, not read.

    Raises:
        ArtifactError: the checkpoint is damaged.
        ConfigError: it is of another model.
    """
    if run.init_from is None:
        return InitialWeights(run.model, run.seed)
    weights = StoredWeights(Path(run.init_from.folder))
    if weights.config != run.model:
        raise ConfigError(
            f"stage {run.stage} starts from a checkpoint of a model with {weights.config}",
            expected=f"the recipe's model, {run.model}",
            fix="start from a checkpoint of the same recipe",
        )
    return weights


def build_model(
    model_config: ModelConfig,
    weights: WeightSource,
    device: torch.device,
    precision: Precision,
    deepspeed_config: dict[str, Any],
) -> CodeGen:
    """Build a model for DeepSpeed's engine. All ranks call this together.

    Host memory beyond the weights that the rank holds: the buffer of `weights`, and on a CPU with
    ZeRO 3 also the rank's partition of the largest parameter.

    Raises:
        ArtifactError: a weight is NaN or infinite.
    """
    with torch.device("meta"):
        model = CodeGen(model_config).to(TORCH_DTYPES[Dtype(precision)])
    if deepspeed_config["zero_optimization"]["stage"] < _PARTITIONED_WEIGHTS:
        fill_parameters(model, weights, device)
        return model
    partitioner = _Partitioner(deepspeed_config)
    for name, parameter in allocate_parameters(model, device):
        partitioner.partition(name, parameter, weights)
    return model


class _Partitioner(Init):  # type: ignore[misc]  # deepspeed has no types
    """Partitions parameters for ZeRO 3, one at a time.

    DeepSpeed's `Init` broadcasts the whole parameter of rank 0 first. Here every rank writes its
    own partition: the rest of the parameter is allocated, but on a CPU unwritten pages take no
    memory.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        # With a module, here an empty one, DeepSpeed also replaces `torch.nn.functional.linear`:
        # PyTorch's keeps every gathered weight for the backward pass.
        super().__init__(module=nn.Module(), config_dict_or_path=config)

    def partition(self, name: str, parameter: Any, weights: WeightSource) -> None:
        """Write this rank's partition of a parameter, and free the rest.

        `parameter` is a `nn.Parameter`, to which DeepSpeed adds attributes.
        """
        self._convert_to_deepspeed_param(parameter)
        length = parameter.aligned_size() // parameter.ds_zero_partition_world_size
        start = length * parameter.ds_zero_partition_rank
        positions = range(min(start, parameter.ds_numel), min(start + length, parameter.ds_numel))
        weights.write(name, parameter.detach().view(-1), positions)
        parameter.partition()
