"""Linear layers whose weights lie in oneDNN's own order, for drawing samples on a CPU.

Two reasons. Few rows at a time are multiplied up to twice as fast as by `torch.nn.Linear`, which orders the weights anew at
every call. And a row's result is the same bits whatever rows are beside it, which `torch.nn.Linear` does not promise: so a
sample does not depend on the batch that it is drawn in. Both were measured (docs/decisions/0008-sampling.md). Other devices,
and PyTorch without oneDNN, keep their layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_USUAL_ROWS = 64
"""What the order is chosen for; it fits every other number of rows, too."""


class PackedLinear(nn.Module):
    """A linear layer that can compute and do nothing else."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _USUAL_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T + bias` over the last axis."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return result


def pack(model: nn.Module) -> None:
    """Replace every linear layer of a model that is only to be computed with; elsewhere than on a CPU nothing happens."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.weight.device.type == "cpu":
                setattr(module, name, PackedLinear(child))
