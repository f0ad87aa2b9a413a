"""Sources of weights: the values of a whole parameter, and of the parts of ranks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fixtures.checkpoints import SMALL_MODEL, transformers_model, write_transformers_checkpoint
from torch import Tensor

from components.core.errors import ArtifactError
from components.model.config import ModelConfig
from components.model.huggingface import load_checkpoint
from components.model.huggingface.checkpoint_reader import StoredWeights
from components.model.transformer import CodeGen
from components.model.weights import CHUNK_VALUES, InitialWeights, WeightSource

SHAPES = {
    "less than a chunk": SMALL_MODEL,
    "several chunks": ModelConfig(
        num_layers=1,
        num_heads=4,
        head_dim=10,
        rotary_dim=4,
        context_length=8,
        padded_vocab_size=2 * CHUNK_VALUES // 40 + 9,
    ),
    "a chunk and half a block of values": ModelConfig(
        num_layers=1,
        num_heads=4,
        head_dim=2,
        rotary_dim=2,
        context_length=8,
        padded_vocab_size=CHUNK_VALUES // 8 + 1,
    ),
}
"""The embedding of the last two has 2 * 2^20 + 304 and 2^20 + 8 values, no multiples of 16."""


def whole_weights(model: CodeGen, seed: int) -> dict[str, Tensor]:
    """Every parameter by PyTorch's own truncated normal distribution, in one call each."""
    generator = torch.Generator().manual_seed(seed)
    d = model.config.d_model
    into_residual = 2 / model.config.num_layers / math.sqrt(d)
    stds = {"embedding": 1 / math.sqrt(model.config.padded_vocab_size)}
    stds |= dict.fromkeys(("qkv", "mlp_in", "head"), 1 / math.sqrt(d))
    stds |= dict.fromkeys(("attention_out", "mlp_out"), into_residual)
    weights = {}
    for name, parameter in model.named_parameters():
        values = torch.full(parameter.shape, float(not name.endswith("bias")))
        if values.dim() == 2:
            std = stds[name.split(".")[-2]]
            torch.nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator)
        weights[name] = values
    return weights


@pytest.mark.parametrize("shape", SHAPES)
def test_new_weights_are_truncated_normal_values_of_one_generator(shape: str) -> None:
    model = CodeGen(SHAPES[shape], seed=7)
    expected = whole_weights(model, seed=7)
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def written_parts(model: CodeGen, sources: list[WeightSource]) -> dict[str, Tensor]:
    """The parameters as written by ranks that hold equal consecutive parts of each."""
    weights = {}
    for name, parameter in model.named_parameters():
        num_values = parameter.numel()
        length = math.ceil(num_values / len(sources))
        parts = []
        for rank, source in enumerate(sources):
            values = torch.full([num_values], math.nan)
            positions = range(min(rank * length, num_values), min((rank + 1) * length, num_values))
            source.write(name, values, positions)
            assert values[: positions.start].isnan().all()
            assert values[positions.stop :].isnan().all()
            parts.append(values[positions.start : positions.stop])
        weights[name] = torch.cat(parts).view_as(parameter)
    return weights


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_the_parts_of_ranks_are_the_whole_model(num_ranks: int, tmp_path: Path) -> None:
    model = CodeGen(SMALL_MODEL, seed=4)
    sources: list[WeightSource] = [InitialWeights(SMALL_MODEL, 4) for _ in range(num_ranks)]
    for name, weight in written_parts(model, sources).items():
        assert torch.equal(weight, model.get_parameter(name)), name

    folder = write_transformers_checkpoint(
        transformers_model(SMALL_MODEL), tmp_path / "checkpoint", "safetensors shards"
    )
    stored = load_checkpoint(folder)
    sources = [StoredWeights(folder) for _ in range(num_ranks)]
    for name, weight in written_parts(stored, sources).items():
        assert torch.equal(weight, stored.get_parameter(name)), name


def test_a_part_of_several_chunks_is_the_part_of_the_whole_parameter() -> None:
    shape = SHAPES["several chunks"]
    model = CodeGen(shape, seed=2)
    for name, weight in written_parts(model, [InitialWeights(shape, 2) for _ in range(2)]).items():
        assert torch.equal(weight, model.get_parameter(name)), name


def test_a_checkpoint_is_loaded_in_another_type(tmp_path: Path) -> None:
    folder = write_transformers_checkpoint(
        transformers_model(SMALL_MODEL), tmp_path / "checkpoint", "safetensors"
    )
    model = load_checkpoint(folder)
    for name, parameter in load_checkpoint(folder, "cpu", torch.bfloat16).named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, model.get_parameter(name).bfloat16()), name


def test_a_value_that_is_not_finite_is_found_by_the_rank_that_holds_it(tmp_path: Path) -> None:
    model = transformers_model(SMALL_MODEL)
    with torch.no_grad():
        model.transformer.wte.weight[-1, 0] = math.nan
    folder = write_transformers_checkpoint(model, tmp_path / "checkpoint", "safetensors")
    values = torch.empty(3200)
    StoredWeights(folder).write("embedding.weight", values, range(3168))
    with pytest.raises(ArtifactError, match=r"transformer\.wte\.weight with 1 of 3,200 values NaN"):
        StoredWeights(folder).write("embedding.weight", values, range(3168, 3200))
