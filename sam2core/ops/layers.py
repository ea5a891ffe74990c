"""Small layers that several parts share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a layer makes of so many bytes of tokens stays in cache, and the allocator keeps the memory for the next piece.
PIECE_BYTES = 4 * 2**20


def predicts_on_cpu(x: Tensor) -> bool:
    """Whether work on `x` may be cut up for a CPU's caches: for eager prediction alone."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def tokenwise(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """`function` of tokens (..., C), each treated alone, giving (..., C'); inside it is at most `width` wide.

    On a CPU, prediction goes piece by piece: what is made inside stays small.
    """
    rows = max(16, PIECE_BYTES // (width * x.element_size()))
    if not predicts_on_cpu(x) or x.numel() <= rows * x.shape[-1]:
        return function(x)
    flat = x.reshape(-1, x.shape[-1])
    first = function(flat[:rows])
    out = first.new_empty(flat.shape[0], first.shape[-1])
    out[:rows] = first
    for start in range(rows, flat.shape[0], rows):
        out[start : start + rows] = function(flat[start : start + rows])
    return out.view(*x.shape[:-1], -1)


def lower_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Linear layers and convolutions to half precision; norms, codes of position and the sums they enter stay fp32."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.to(dtype)


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
            x = layer(x) if index == last else self.activation(layer(x))
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
