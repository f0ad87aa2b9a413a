"""The training loss without ever holding the logits: head, softmax and their gradients, some rows at a time.

At GPT-2's vocabulary the logits of a micro-batch are larger than everything else in a small model together. The gradient
of the loss with respect to them is known as soon as they are, so the forward pass computes the gradients of its inputs
right away and forgets the logits; the backward pass only scales. That is three matrix products, as many as the plain way
needs, where recomputation would need four. Not covered: second derivatives.

Shapes: N predicted tokens, C rows of one chunk, D model, V vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor, z_loss: float
) -> Tensor:
    """The mean over N of `-log p(target) + z_loss * log(Z)^2`, where Z is the softmax's denominator; a scalar in fp32.

    Source of the second term: docs/paper.md section 3. The result and its gradients are the same from run to run.
    """
    if not (z_loss or torch.is_grad_enabled()):
        return token_losses(hidden_ND, weight_VD, bias_V, targets_N).mean()
    loss: Tensor = _MeanCrossEntropy.apply(hidden_ND, weight_VD, bias_V, targets_N, z_loss)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """`-log p(target)` in nats of every predicted token: fp32 [N], without gradients."""
    losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
    for rows in chunks(len(targets_N), weight_VD.shape[1]):
        logits_CV = F.linear(hidden_ND[rows], weight_VD, bias_V).float()
        losses_N[rows] = F.cross_entropy(logits_CV, targets_N[rows], reduction="none")
    return losses_N


def chunks(num_targets: int, d_model: int) -> Iterator[slice]:
    """Cut N rows into chunks of `d_model / 2` rows, whose logits are half as large as the head's weight.

    With fewer rows, reading and writing the weight's gradient costs more than the products; with more, the logits leave
    the cache. Measured on one core, D 256 and 1024, V 4k to 51k: within 5 % of the best of 16 .. 4096 rows.
    """
    num_rows = max(1, d_model // 2)
    return (
        slice(start, min(start + num_rows, num_targets))
        for start in range(0, num_targets, num_rows)
    )


class _MeanCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        targets_N: Tensor,
        z_loss: float,
    ) -> Tensor:
        num_targets = len(targets_N)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        # In fp32 whatever the weights are: a chunk adds little to what many chunks before it have summed up.
        grad_weight_VD, grad_bias_V = (
            torch.zeros_like(one, dtype=torch.float32) for one in (weight_VD, bias_V)
        )
        for rows in chunks(num_targets, weight_VD.shape[1]):
            hidden_CD, targets_C1 = hidden_ND[rows].to(weight_VD.dtype), targets_N[rows, None]
            logits_CV = F.linear(hidden_CD, weight_VD, bias_V).float()
            losses_C1, error_CV = _losses_and_gradients(logits_CV, targets_C1, z_loss)
            loss += losses_C1.sum()
            error_CV = error_CV.to(weight_VD.dtype)
            grad_hidden_ND[rows] = error_CV @ weight_VD
            if weight_VD.dtype == torch.float32:
                grad_weight_VD.addmm_(error_CV.T, hidden_CD)
            else:
                grad_weight_VD += error_CV.T @ hidden_CD
            grad_bias_V += error_CV.sum(0, dtype=torch.float32)
        ctx.num_targets = num_targets
        ctx.save_for_backward(
            grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), grad_bias_V.to(bias_V.dtype)
        )
        return loss / num_targets

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_loss / ctx.num_targets
        return *(gradient * scale for gradient in ctx.saved_tensors), None, None


def _losses_and_gradients(
    logits_CV: Tensor, targets_C1: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The loss of every row [C, 1], and its gradient by the logits [C, V]: `p (1 + 2 z_loss log Z) - onehot(target)`."""
    largest_C1 = logits_CV.amax(-1, keepdim=True)
    target_logits_C1 = logits_CV.gather(-1, targets_C1)
    p_CV = torch.softmax(logits_CV, -1)
    # The largest p is at least 1/V, so its logarithm is safe, and softmax in one pass is the fastest way to Z on a CPU.
    log_z_C1 = largest_C1 - p_CV.amax(-1, keepdim=True).log()
    gradient_CV = p_CV.mul_(1 + 2 * z_loss * log_z_C1)
    gradient_CV.scatter_add_(-1, targets_C1, -torch.ones_like(log_z_C1))
    return log_z_C1 - target_logits_C1 + z_loss * log_z_C1.square(), gradient_CV
