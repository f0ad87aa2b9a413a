"""Adam's two moments as a file, for a next stage that keeps the optimizer instead of beginning with a new one.

They are written whole and by the parameters' names, like the weights, so that the next stage may run on any other place.
DeepSpeed puts them together and takes them apart, once each of its flat tensors has moments and knows where every parameter
lies in them, which 0.19.8 sees to for the first group alone. Not covered: tensor parallelism; ZeRO 3 where a parameter does
not divide over the ranks; writing them without holding them whole in the first rank's memory.
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
from components.training.run_file import OPTIMIZER

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NUM_UPDATES = "num_updates"


def save_optimizer_state(engine: Any, model: nn.Module, folder: Path, num_updates: int) -> None:
    """Write `optimizer.safetensors` on rank 0; all ranks call it together. `num_updates`: of all stages that are in it."""
    tensors: dict[str, Tensor] = {}
    _make_moments(engine)
    for name, parameter in model.named_parameters():
        for moment in _MOMENTS:
            value = _moment(engine, parameter, moment)
            if dist.get_rank() == 0:
                tensors[f"{name}.{moment}"] = value.detach().float().cpu().contiguous()
    if dist.get_rank() == 0:
        write_tensors(tensors, folder / OPTIMIZER, {_NUM_UPDATES: str(num_updates)})


def load_optimizer_state(engine: Any, model: nn.Module, folder: Path) -> int:
    """Go on with the moments that a stage left; all ranks call it together, before the first step.

    Returns:
        The number of updates that are in them.

    Raises:
        ArtifactError: there are none, or they are damaged or of another model.
        ConfigError: with ZeRO 3, a parameter that does not divide over the ranks.
    """
    path = folder / OPTIMIZER
    if not path.is_file():
        raise ArtifactError(
            f"{folder} has no {OPTIMIZER}",
            expected="the moments of the stage before, which this one is to keep",
            fix="train that stage again with a recipe that keeps them, or set this one's optimizer to reset",
        )
    wanted = {
        f"{name}.{moment}": (parameter, moment)
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
    }
    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) ^ wanted.keys():
                raise _unfit(
                    path,
                    f"has moments of other parameters: {', '.join(sorted(set(file.keys()) ^ wanted.keys())[:4])}",
                )
            num_updates = (file.metadata() or {}).get(_NUM_UPDATES, "")
            if not num_updates.isdecimal():
                raise _unfit(path, f"does not say how many updates are in it ({_NUM_UPDATES})")
            _make_moments(engine)
            for name, (parameter, moment) in wanted.items():
                value = file.get_tensor(name)
                if value.shape != getattr(parameter, "ds_shape", parameter.shape) or not all_finite(
                    value
                ):
                    raise _unfit(
                        path,
                        f"has {name} of shape {list(value.shape)}, or with values that are not finite",
                    )
                _set_moment(engine, parameter, moment, value)
    except SafetensorError as error:
        raise _unfit(path, f"cannot be read ({error})") from error
    set_num_updates(engine, int(num_updates))
    return int(num_updates)


def _unfit(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} {what}",
        expected="finite moments of every parameter of the model that is trained",
        fix="start from a checkpoint of the same recipe, restore this one, or set the stage's optimizer to reset",
    )


def set_num_updates(engine: Any, number: int) -> None:
    """Tell Adam how many updates are in its moments, which its bias correction depends on."""
    for state in _optimizer(engine).state.values():
        state["step"] = torch.full_like(torch.as_tensor(state["step"], dtype=torch.float32), number)


def _optimizer(engine: Any) -> Any:
    """torch's optimizer: inside of ZeRO's, or the engine's own."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _make_moments(engine: Any) -> None:
    """Give every tensor that is optimized its moments, and tell every parameter where its own lie."""
    state, groups = _optimizer(engine).state, _optimizer(engine).param_groups
    in_stage_3 = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    for tensor in in_stage_3 or [one for group in groups for one in group["params"]]:
        if not state[tensor]:
            moments = {name: torch.zeros_like(tensor, requires_grad=False) for name in _MOMENTS}
            state[tensor] |= {"step": torch.tensor(0.0, device=tensor.device), **moments}
    if hasattr(engine.optimizer, "single_partition_of_fp32_groups"):  # ZeRO 1 and 2.
        for parameters, flat in zip(
            engine.optimizer.bit16_groups,
            engine.optimizer.single_partition_of_fp32_groups,
            strict=True,
        ):
            lazy_init_hp_params_optimizer_state(parameters, flat, state)


def _moment(engine: Any, parameter: nn.Parameter, name: str) -> Tensor:
    own = _optimizer(engine).state.get(parameter)
    value: Tensor = own[name] if own else safe_get_full_optimizer_state(parameter, name)
    return value


def _set_moment(engine: Any, parameter: nn.Parameter, name: str, value: Tensor) -> None:
    own = _optimizer(engine).state.get(parameter)
    if own:
        own[name].copy_(value)
        return
    if hasattr(parameter, "ds_id") and value.numel() % dist.get_world_size():
        raise ConfigError(
            f"a parameter of {value.numel():,} values does not divide over {dist.get_world_size()} ranks",
            expected="one that does: DeepSpeed cannot set moments of others with ZeRO 3",
            fix="use ZeRO 1 or 2 for this stage, or set its optimizer to reset",
        )
    safe_set_full_optimizer_state(parameter, value.to(engine.device), name)
