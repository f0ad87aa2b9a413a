"""Sources of a model's weights, and the creation of a model parameter by parameter.

A source writes any range of a flattened parameter through a buffer of a few megabytes. Therefore a
model is built on its final device and in its final type without a copy in host memory, and a rank
that holds a part of every parameter writes only this part.

Shapes: N values of a parameter, flattened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from components.model.config import ModelConfig

CHUNK_VALUES = 1 << 20
"""Values that a source holds at once (4 MB in fp32). A multiple of 16, see `InitialWeights`."""
TRUNCATION_STD = 2.0
"""Standard deviations at which Haiku's TruncatedNormal truncates."""
_NORMAL_BLOCK = 16
"""PyTorch draws normal values on the CPU in blocks of 16, and the last 16 values again if the
length is no multiple."""


class WeightSource(Protocol):
    """The weights of a model."""

    def write(self, name: str, values_N: Tensor, positions: range) -> None:
        """Write the values at some positions of a parameter to the same positions of `values_N`.

        Called for every parameter, in the model's order.

        Args:
            name: of the parameter.
            values_N: the flattened parameter on any device, of any floating type.
            positions: consecutive; may be empty.
        """
        ...


def allocate_parameters(
    model: nn.Module, device: torch.device | str
) -> Iterator[tuple[str, nn.Parameter]]:
    """Replace the parameters of a model on the meta device by uninitialized ones, one per item."""
    for name, parameter in list(model.named_parameters()):
        module_name, _, attribute = name.rpartition(".")
        allocated = nn.Parameter(torch.empty_like(parameter, device=device))
        setattr(model.get_submodule(module_name), attribute, allocated)
        yield name, allocated


def fill_parameters(model: nn.Module, source: WeightSource, device: torch.device | str) -> None:
    """Move a model from the meta device to `device`, with the weights of a source."""
    for name, parameter in allocate_parameters(model, device):
        source.write(name, parameter.detach().view(-1), range(parameter.numel()))


def split_range(num_values: int) -> list[range]:
    """Split N positions into chunks of `CHUNK_VALUES`; the last has 16 positions or more, if N
    has."""
    stops = list(range(CHUNK_VALUES, num_values, CHUNK_VALUES))
    if stops and num_values - stops[-1] < _NORMAL_BLOCK:
        stops.pop()
    return [range(*bounds) for bounds in zip([0, *stops], [*stops, num_values], strict=True)]


def overlap(first: range, second: range) -> range:
    """Return the positions in both ranges of consecutive positions."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


class InitialWeights:
    """Weights of a new model, dependent on the seed and the config only.

    Source: docs/paper.md, section 3, and the authors' JAX code (`decoder/inter/modules.py`).
    Weights are normal with standard deviation 1/sqrt(fan_in), or (2/layers)/sqrt(d_model) for the
    two projections into the residual stream, then truncated without compensation, as in Haiku. The
    fan-in of the embedding is its number of rows, as it is a linear map of one-hot vectors there.
    Biases are 0, LayerNorm gains 1.

    All values come from one generator, so every rank draws all of them. They equal those of
    `torch.nn.init.trunc_normal_` of PyTorch 2.13 on the whole parameter: all values are redrawn
    until each was within the limit once. Drawn in chunks of a multiple of 16, they are the same.
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        std_from_d = 1 / math.sqrt(config.d_model)
        std_into_residual = 2.0 / config.num_layers / math.sqrt(config.d_model)
        self._stds = {
            "embedding": 1 / math.sqrt(config.padded_vocab_size),
            "qkv": std_from_d,
            "attention_out": std_into_residual,
            "mlp_in": std_from_d,
            "mlp_out": std_into_residual,
            "head": std_from_d,
        }

    def write(self, name: str, values_N: Tensor, positions: range) -> None:
        """See `WeightSource`."""
        module, kind = name.split(".")[-2:]
        if kind == "bias":
            values_N[positions.start : positions.stop] = 0.0
        elif module in self._stds:
            self._write_truncated_normal(values_N, positions, self._stds[module])
        else:
            values_N[positions.start : positions.stop] = 1.0

    def _write_truncated_normal(self, values_N: Tensor, positions: range, std: float) -> None:
        limit = float(torch.tensor(TRUNCATION_STD * std))
        chunks = split_range(len(values_N))
        buffer = torch.empty(max(len(chunk) for chunk in chunks))
        rejected: list[Tensor] = []
        """Indices inside each chunk whose value is beyond the limit."""
        for chunk in chunks:
            values = buffer[: len(chunk)].normal_(std=std, generator=self._generator)
            part = overlap(chunk, positions)
            offset = chunk.start
            values_N[part.start : part.stop] = values[part.start - offset : part.stop - offset]
            rejected.append((values.abs() > limit).nonzero().flatten().int())
        while any(len(indices) for indices in rejected):
            for number, chunk in enumerate(chunks):
                values = buffer[: len(chunk)].normal_(std=std, generator=self._generator)
                indices = rejected[number]
                redrawn = values[indices]
                rejected[number] = indices[redrawn.abs() > limit]
                indices = indices.long() + chunk.start
                is_own = (indices >= positions.start) & (indices < positions.stop)
                values_N[indices[is_own].to(values_N.device)] = redrawn[is_own].to(values_N)
