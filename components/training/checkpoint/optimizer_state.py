"""Saves and loads Adam's moments, for a next stage that inherits the optimizer state.

Moments are written unpartitioned, by parameter name, so the next stage may use another execution
config. DeepSpeed gathers and partitions them, once every flat tensor has moments and a mapping of
parameters, which 0.19.8 sets up for the first group only. Not supported: tensor parallelism; ZeRO 3
if a parameter does not divide over the ranks; writing without all moments in rank 0's memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from components.core.errors import ArtifactError, ConfigError
from components.model.huggingface.checkpoint_reader import all_finite
from components.model.huggingface.checkpoint_writer import write_tensors
from components.training.run_file import OPTIMIZER_FILE

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NUM_UPDATES = "num_updates"


def save_optimizer_state(engine: Any, model: nn.Module, folder: Path, num_updates: int) -> None:
    """Write `optimizer.safetensors` on rank 0. All ranks call this together.

    Args:
        num_updates: updates in the moments, of all stages.
    """
    is_writer = dist.get_rank() == 0
    tensors: dict[str, Tensor] = {}
    _init_moments(engine)
    for name, parameter in model.named_parameters():
        for moment in _MOMENTS:
            value = _get_moment(engine, parameter, moment)
            if is_writer:
                tensors[f"{name}.{moment}"] = value.detach().float().cpu().contiguous()
    if is_writer:
        write_tensors(tensors, folder / OPTIMIZER_FILE, {_NUM_UPDATES: str(num_updates)})


def load_optimizer_state(engine: Any, model: nn.Module, folder: Path) -> int:
    """Load the moments of a previous stage. All ranks call this together, before the first step.

    Returns:
        The number of updates in the moments.

    Raises:
        ArtifactError: the file is absent, damaged or of another model.
        ConfigError: with ZeRO 3, a parameter does not divide over the ranks.
    """
    path = folder / OPTIMIZER_FILE
    if not path.is_file():
        raise ArtifactError(
            f"{folder} has no {OPTIMIZER_FILE}",
            expected="the optimizer state of the previous stage, which this stage inherits",
            fix="train the previous stage again with a recipe whose next stage inherits the "
            "optimizer state, or set this stage's optimizer_state to reset",
        )
    try:
        with safe_open(path, framework="pt") as file:
            num_updates = _read_num_updates(file, path)
            _init_moments(engine)
            _load_moments(engine, model, file, path)
    except SafetensorError as error:
        raise _invalid_file(path, f"cannot be read ({error})") from error
    set_num_updates(engine, num_updates)
    return num_updates


def set_num_updates(engine: Any, num_updates: int) -> None:
    """Set the number of updates in Adam's moments, which its bias correction depends on."""
    for state in _torch_optimizer(engine).state.values():
        step = torch.as_tensor(state["step"], dtype=torch.float32)
        state["step"] = torch.full_like(step, num_updates)


def _read_num_updates(file: Any, path: Path) -> int:
    value = (file.metadata() or {}).get(_NUM_UPDATES, "")
    if not value.isdecimal():
        raise _invalid_file(path, f"has no number of updates ({_NUM_UPDATES})")
    return int(value)


def _load_moments(engine: Any, model: nn.Module, file: Any, path: Path) -> None:
    parameters = dict(model.named_parameters())
    expected_names = {f"{name}.{moment}" for name in parameters for moment in _MOMENTS}
    mismatched = sorted(set(file.keys()) ^ expected_names)
    if mismatched:
        raise _invalid_file(path, f"has moments of other parameters: {', '.join(mismatched[:4])}")
    for name, parameter in parameters.items():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        for moment in _MOMENTS:
            value = file.get_tensor(f"{name}.{moment}")
            if value.shape != shape or not all_finite(value):
                problem = f"of shape {list(value.shape)}, or with values that are not finite"
                raise _invalid_file(path, f"has {name}.{moment} {problem}")
            _set_moment(engine, parameter, moment, value)


def _invalid_file(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(
        f"{path} {problem}",
        expected="finite moments of every parameter of the trained model",
        fix="start from a checkpoint of the same recipe, restore the file, or set the stage's "
        "optimizer_state to reset",
    )


def _torch_optimizer(engine: Any) -> Any:
    """torch's optimizer: inside ZeRO's optimizer, or the engine's own."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _init_moments(engine: Any) -> None:
    """Create missing moments as zeros, and map every parameter to its part of them."""
    optimizer = _torch_optimizer(engine)
    tensors = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)  # ZeRO 3.
    if not tensors:
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    for tensor in tensors:
        if not optimizer.state[tensor]:
            moments = {name: torch.zeros_like(tensor, requires_grad=False) for name in _MOMENTS}
            step = torch.tensor(0.0, device=tensor.device)
            optimizer.state[tensor] |= {"step": step, **moments}
    if hasattr(engine.optimizer, "single_partition_of_fp32_groups"):  # ZeRO 1 and 2.
        for parameters, flat in zip(
            engine.optimizer.bit16_groups,
            engine.optimizer.single_partition_of_fp32_groups,
            strict=True,
        ):
            lazy_init_hp_params_optimizer_state(parameters, flat, optimizer.state)


def _get_moment(engine: Any, parameter: nn.Parameter, name: str) -> Tensor:
    state = _torch_optimizer(engine).state.get(parameter)
    value: Tensor = state[name] if state else safe_get_full_optimizer_state(parameter, name)
    return value


def _set_moment(engine: Any, parameter: nn.Parameter, name: str, value: Tensor) -> None:
    state = _torch_optimizer(engine).state.get(parameter)
    if state:
        state[name].copy_(value)
        return
    if hasattr(parameter, "ds_id") and value.numel() % dist.get_world_size():
        raise ConfigError(
            f"a parameter of {value.numel():,} values does not divide over "
            f"{dist.get_world_size()} ranks",
            expected="parameters that divide over the ranks: with ZeRO 3, DeepSpeed cannot set "
            "the moments of others",
            fix="use ZeRO 1 or 2 for this stage, or set its optimizer_state to reset",
        )
    safe_set_full_optimizer_state(parameter, value.to(engine.device), name)
