"""The network agrees with its definition written out in plain operations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fixtures.models import TINY, lively_model
from torch import Tensor

from components.model.transformer import CodeGen, apply_rotary, rotary_frequencies


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(
        TINY.padded_vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed)
    )


def test_a_token_changes_logits_from_its_position_on_only() -> None:
    model = lively_model()
    original = tokens(1, 12)
    changed = original.clone()
    changed[0, 7] = (changed[0, 7] + 1) % TINY.padded_vocab_size
    with torch.no_grad():
        difference = (model(original) - model(changed)).abs().amax(-1)[0]
    assert (difference[:7] == 0).all()
    assert (difference[7:] > 1e-4).all()


def test_the_loss_is_the_mean_cross_entropy_of_all_but_the_first_token() -> None:
    model, tokens_BT = lively_model(), tokens(3, 9)
    logits_BTV = model(tokens_BT).detach().double()
    log_p = logits_BTV.log_softmax(-1)
    target_log_p = [log_p[b, t, tokens_BT[b, t + 1]].item() for b in range(3) for t in range(8)]
    assert model.loss(tokens_BT).item() == pytest.approx(-sum(target_log_p) / 24, rel=1e-5)
    expected = (
        -sum(target_log_p) / 24 + 0.3 * logits_BTV[:, :-1].logsumexp(-1).square().mean().item()
    )
    assert model.loss(tokens_BT, z_loss=0.3).item() == pytest.approx(expected, rel=1e-5)
    assert model(tokens_BT, 0.3).item() == model.loss(tokens_BT, z_loss=0.3).item()


@pytest.mark.parametrize("activation_checkpoint_interval", [0, 1])
def test_a_masked_document_has_the_logits_of_a_separate_document(
    activation_checkpoint_interval: int,
) -> None:
    """Positions continue across documents. The separator belongs to the first document."""
    model = lively_model()
    separator = 5
    model.activation_checkpoint_interval = activation_checkpoint_interval
    first = tokens(1, 6, seed=1)
    first[first == separator] = 6
    second = tokens(1, 9, seed=2)
    second[second == separator] = 6
    joined = torch.cat([first, torch.tensor([[separator]]), second], dim=1)
    masked = model(joined, eot_id=separator)
    torch.testing.assert_close(masked[:, 7:], model(second), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masked[:, :7], model(joined[:, :7]), rtol=1e-4, atol=1e-4)
    assert (masked[:, 7:] - model(joined)[:, 7:]).abs().max() > 1e-2, "without a mask they differ"
    masked_loss = model(joined, z_loss=0.0, eot_id=separator)
    expected = F.cross_entropy(masked[0, :-1], joined[0, 1:])
    torch.testing.assert_close(masked_loss, expected, rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss_and_is_deterministic() -> None:
    def train() -> list[float]:
        model = CodeGen(TINY, seed=3)
        tokens_BT = tokens(4, 32)
        losses = []
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(12):
            optimizer.zero_grad()
            loss = model.loss(tokens_BT, z_loss=1e-4)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    losses = train()
    # An untrained model predicts almost uniformly.
    assert losses[0] == pytest.approx(math.log(TINY.padded_vocab_size), abs=0.6)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == train()


def test_a_pair_is_rotated_by_its_position_times_its_frequency() -> None:
    # rotary_dim 4 of 6: pairs 0 and 1 rotate by 1 and 1/100 radian per position, pair 2 does not.
    heads = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 7.0])
    rotated = apply_rotary(heads, rotary_frequencies(torch.tensor(3), 4, 6))
    expected = [math.cos(3), math.sin(3), -math.sin(0.03), math.cos(0.03), 5.0, 7.0]
    torch.testing.assert_close(rotated, torch.tensor(expected))


def test_attention_depends_on_distance_and_not_on_position() -> None:
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def product(query_position: int, key_position: int) -> float:
        rotation = rotary_frequencies(torch.tensor([query_position, key_position]), 8, 8)
        return float(apply_rotary(query, rotation[0]) @ apply_rotary(key, rotation[1]))

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert abs(product(9, 4) - product(9, 5)) > 1e-2


def test_a_block_adds_attention_and_mlp_of_the_same_layer_norm() -> None:
    """Written out with plain operations, head by head."""
    model = lively_model()
    block = model.blocks[1]
    length = 5
    x_TD = torch.randn(length, 32, generator=torch.Generator().manual_seed(1))
    normed_TD = (x_TD - x_TD.mean(-1, keepdim=True)) / (
        x_TD.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    normed_TD = normed_TD * block.norm.weight + block.norm.bias
    query, key, value = (normed_TD @ block.qkv.weight.T).split(32, dim=-1)
    rotation_TK = rotary_frequencies(torch.arange(length), 4, 8)
    heads = []
    for rows in (slice(8 * head, 8 * head + 8) for head in range(4)):
        scores = (
            apply_rotary(query[:, rows], rotation_TK)
            @ apply_rotary(key[:, rows], rotation_TK).T
            / math.sqrt(8)
        )
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ value[:, rows])
    inner = normed_TD @ block.mlp_in.weight.T + block.mlp_in.bias
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    expected = x_TD + torch.cat(heads, -1) @ block.attention_out.weight.T
    expected = expected + gelu @ block.mlp_out.weight.T + block.mlp_out.bias
    rotation = rotary_frequencies(torch.arange(length)[None], 4, 8)[:, :, None, None]
    torch.testing.assert_close(block(x_TD[None], rotation)[0], expected, atol=1e-5, rtol=1e-5)


def test_initial_weights_depend_on_the_seed_only() -> None:
    state = torch.random.get_rng_state()
    model = CodeGen(TINY, seed=5)
    torch.manual_seed(2)
    same = CodeGen(TINY, seed=5)
    different = CodeGen(TINY, seed=6)
    pairs = zip(model.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    assert not torch.equal(model.embedding.weight, different.embedding.weight)
    torch.random.set_rng_state(state)
    CodeGen(TINY, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)  # The global generator is not used.


@pytest.mark.parametrize(
    ("name", "std"),
    [
        # 0.8796 is the standard deviation of a unit normal truncated at 2:
        # sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
        ("embedding.weight", 0.8796 / math.sqrt(512)),
        ("blocks.0.qkv.weight", 0.8796 / math.sqrt(32)),
        ("blocks.1.mlp_in.weight", 0.8796 / math.sqrt(32)),
        ("blocks.0.attention_out.weight", 0.8796 / math.sqrt(32)),  # (2 / 2 layers) / sqrt(d)
        ("blocks.1.mlp_out.weight", 0.8796 / math.sqrt(32)),
        ("head.weight", 0.8796 / math.sqrt(32)),
    ],
)
def test_initial_weights_have_the_papers_distribution(name: str, std: float) -> None:
    weight = CodeGen(TINY, seed=1).get_parameter(name)
    assert weight.std().item() == pytest.approx(std, rel=0.06)
    assert weight.abs().max().item() <= 2 * std / 0.8796
    assert abs(weight.mean().item()) < 0.1 * std


def test_residual_projections_are_scaled_by_the_number_of_layers() -> None:
    deep = CodeGen(TINY.replace(num_layers=8), seed=1)
    assert deep.blocks[0].mlp_out.weight.std().item() == pytest.approx(
        0.8796 * (2 / 8) / math.sqrt(32), rel=0.06
    )


def test_biases_start_at_zero_and_gains_at_one() -> None:
    for name, parameter in CodeGen(TINY).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "norm" in name:
            assert (parameter == 1).all()


def test_bf16_has_an_fp32_loss_close_to_that_of_fp32() -> None:
    model, tokens_BT = lively_model(sharpness=1.0), tokens(2, 32)
    expected = model.loss(tokens_BT).item()
    half = model.bfloat16()
    loss = half.loss(tokens_BT)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.02)
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in half.parameters()
    )
    assert F.mse_loss(half(tokens_BT).float(), model.float()(tokens_BT)).item() < 1e-2
