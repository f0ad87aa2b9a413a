"""The chunked loss agrees with the plain formula and never holds the full logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from components.model.loss import chunks, mean_cross_entropy, token_losses


def inputs(
    num_targets: int, width: int, num_rows: int, seed: int, scale: float = 1.0
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_targets, width, generator=generator)
    weight, bias = (
        torch.randn(shape, generator=generator) * scale
        for shape in ((num_rows, width), (num_rows,))
    )
    targets = torch.randint(num_rows, (num_targets,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


def gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, leaves))


@settings(deadline=None, max_examples=60)
@given(
    num_targets=st.integers(1, 40),
    width=st.integers(1, 12),
    num_rows=st.integers(1, 50),
    seed=st.integers(0, 1000),
    z_loss=st.sampled_from([0.0, 1e-4, 0.5]),
)
def test_loss_and_gradients_are_those_of_the_plain_formula(
    num_targets: int, width: int, num_rows: int, seed: int, z_loss: float
) -> None:
    *leaves, targets = inputs(num_targets, width, num_rows, seed)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits = F.linear(*doubles)
    expected = F.cross_entropy(logits, targets) + z_loss * logits.logsumexp(-1).square().mean()
    loss = mean_cross_entropy(*leaves, targets, z_loss)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    pairs = zip(
        gradients(3 * loss, tuple(leaves)), gradients(3 * expected, tuple(doubles)), strict=True
    )
    for got, expected_gradient in pairs:
        torch.testing.assert_close(got.double(), expected_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_logits_of_any_size_give_finite_numbers(offset: float) -> None:
    hidden, weight, _, targets = inputs(6, 4, 9, seed=0, scale=300.0)
    bias = torch.full((9,), offset, requires_grad=True)
    loss = mean_cross_entropy(hidden, weight, bias, targets, 1e-4)
    logits = F.linear(hidden, weight, bias)
    expected = F.cross_entropy(logits, targets) + 1e-4 * logits.logsumexp(-1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, (hidden, weight, bias)))


def test_loss_and_gradients_are_deterministic() -> None:
    *leaves, targets = inputs(300, 64, 1000, seed=1)
    first, second = (mean_cross_entropy(*leaves, targets, 1e-4) for _ in range(2))
    assert first.item() == second.item()
    pairs = zip(gradients(first, tuple(leaves)), gradients(second, tuple(leaves)), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.num_elements = max(self.num_elements, result.numel())
        return result


def test_the_full_logits_are_never_in_memory() -> None:
    *leaves, targets = inputs(512, 16, 2000, seed=2)
    with LargestTensor() as largest:
        mean_cross_entropy(*leaves, targets, 1e-4).backward()
    # The head's weight; a chunk of logits is half as large, all of them 512 * 2000.
    assert largest.num_elements == 16 * 2000


@given(num_targets=st.integers(0, 1000), width=st.integers(1, 64))
def test_chunks_cover_every_row_once(num_targets: int, width: int) -> None:
    covered = [row for rows in chunks(num_targets, width) for row in range(num_targets)[rows]]
    assert covered == list(range(num_targets))


def test_the_mean_of_token_losses_is_the_loss() -> None:
    *leaves, targets = inputs(33, 8, 20, seed=3)
    losses = token_losses(*leaves, targets)
    expected = F.cross_entropy(F.linear(*leaves), targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    assert losses.mean().item() == pytest.approx(
        mean_cross_entropy(*leaves, targets, 0.0).item(), rel=1e-5
    )
