"""Small layers that several parts share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.operator import Composite


@Composite
def linear_act(x: Tensor, layer: nn.Module, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`activation` of a linear layer's answer to tokens (..., C)."""
    y = layer(x)
    return y if activation is None else activation(y)


class Mlp(nn.Module):
    """`layers` linear layers with an activation between them: dim -> hidden -> ... -> out."""

    def __init__(
        self, dim: int, hidden: int, out: int, *, layers: int, activation: Callable[[Tensor], Tensor] = F.relu
    ) -> None:
        super().__init__()
        widths = [dim] + [hidden] * (layers - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):  # no slice: torch 2.5's export cannot guard one
            x = linear_act(x, layer, None if index == last else self.activation)
        return x


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a (B, C, H, W) map, eps 1e-6."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Drops the residual branch of whole samples while training, with probability `rate` (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)


class ConvNextBlock(nn.Module):
    """A ConvNeXt block: 7x7 depthwise convolution, layer norm, two pointwise layers, layer scale, residual."""

    def __init__(self, dim: int, *, layer_scale: float = 1e-6) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)
