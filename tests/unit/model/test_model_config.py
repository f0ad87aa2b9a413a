"""The numbers that follow from a shape, and the shapes that are invalid."""

from __future__ import annotations

import pytest
import torch

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.model.transformer import CodeGen

PAPER = {
    # docs/paper.md, section 2: layers, heads, head dim, rotary dim, parameters in billions.
    "350M": (20, 16, 64, 32, "0.357"),
    "2.7B": (32, 32, 80, 64, "2.78"),
    "6.1B": (33, 16, 256, 64, "7.06"),
    "16.1B": (34, 24, 256, 64, "16.03"),
}
SMALL = {
    "num_layers": 1,
    "num_heads": 4,
    "head_dim": 8,
    "rotary_dim": 4,
    "context_length": 16,
    "padded_vocab_size": 32,
}


@pytest.mark.parametrize("size", PAPER)
def test_the_papers_models_have_the_papers_number_of_parameters(size: str) -> None:
    layers, heads, head_dim, rotary, billions = PAPER[size]
    shape = {"num_layers": layers, "num_heads": heads, "head_dim": head_dim, "rotary_dim": rotary}
    config = ModelConfig(**shape, context_length=2048, padded_vocab_size=51_200)
    with torch.device("meta"):
        model = CodeGen(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == config.num_parameters
    assert f"{counted / 1e9:.{len(billions.partition('.')[2])}f}" == billions


def test_flops_per_token_equal_a_count_by_hand() -> None:
    # A layer with d 32: 12 * 32^2 = 12,288 weights, a head of 32 * 32 = 1,024; 6 FLOPs for each.
    # Attention over 16 positions, half of them visible on average: 6 * 32 * 16 = 3,072.
    assert ModelConfig(**SMALL).flops_per_token == 6 * (12_288 + 1_024) + 3_072


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("num_heads", 6, "num_heads must be a multiple of 4, got 6"),
        ("head_dim", 7, "head_dim must be even, got 7"),
        ("rotary_dim", 3, "rotary_dim must be even and at most head_dim 8, got 3"),
        ("rotary_dim", 10, "rotary_dim must be even and at most head_dim 8, got 10"),
        ("num_layers", 0, "greater than 0"),
    ],
)
def test_an_invalid_shape_is_an_error_with_its_rule(field: str, value: int, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        ModelConfig.parse({**SMALL, field: value})
