"""Small layers that several parts share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a layer makes of so many bytes of tokens stays in cache, and the allocator keeps the memory for the next piece.
PIECE_BYTES = 8 * 2**20
# torch's product, bias and activation in one, for CPUs (oneDNN); `F.linear` writes the bias first and adds to it.
FUSED = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
ACTIVATIONS = {None: ("none", ""), F.relu: ("relu", ""), F.gelu: ("gelu", "none")}
# Multiplications below which the call itself costs more than it saves.
FUSED_PRODUCTS = 2**22
CPUINFO = Path("/proc/cpuinfo")


def _wide(cpuinfo: str) -> bool:
    """Whether oneDNN's vectors are twice as wide as those of MKL, which `torch.mm` takes in fp32: on AMD from Zen 5 on.

    MKL leaves AVX-512 alone on another maker's processors; before Zen 5 (family 26) that made no difference.
    """
    pairs = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    told = {name.strip(): value.strip() for name, _, value in pairs}
    family = told.get("cpu family", "")
    if told.get("vendor_id") != "AuthenticAMD" or not family.isdecimal() or int(family) < 26:
        return False
    return "avx512f" in told.get("flags", "").split()


def _first_processor() -> str:
    """What Linux tells of the first processor, "" elsewhere; of hundreds of them, the others would take their time."""
    if not CPUINFO.is_file():
        return ""
    with CPUINFO.open(encoding="utf-8") as lines:
        return "".join(takewhile(str.strip, lines))


WIDE = _wide(_first_processor())


def predicts_on_cpu(x: Tensor) -> bool:
    """Whether work on `x` may be cut up for a CPU's caches: for eager prediction alone."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def chunked(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """`function` of tokens (..., C), each treated alone, giving (..., C'); inside it is at most `width` wide.

    On a CPU, prediction goes piece by piece: what is made inside stays small.
    """
    rows = max(16, PIECE_BYTES // (width * x.element_size()))
    if not predicts_on_cpu(x) or x.numel() <= rows * x.shape[-1]:
        return function(x)
    flat = x.reshape(-1, x.shape[-1])
    rows = -(-flat.shape[0] // -(-flat.shape[0] // rows))  # equal pieces: a small rest costs more than its share
    first = function(flat[:rows])
    out = first.new_empty(flat.shape[0], first.shape[-1])
    out[:rows] = first
    for start in range(rows, flat.shape[0], rows):
        out[start : start + rows] = function(flat[start : start + rows])
    return out.view(*x.shape[:-1], -1)


@cache
def _fused(dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """The operator `FUSED`, if this torch has it as it is written here, for a type that it is fast in."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    if found is None or str(found.default._schema) != FUSED:
        return None
    fast = dtype == torch.float32 or dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return found.default if fast else None


def linear(layer: nn.Module, x: Tensor, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`activation` of a linear layer's answer to tokens (..., C), in one go where a CPU predicts.

    Layers that are not plain `nn.Linear`, or that somebody watches with a hook, are called as they are.
    """
    plain = type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)
    fused = _fused_for(x, layer.weight) if plain and activation in ACTIVATIONS else None
    if fused is None:
        y = layer(x)
        return y if activation is None else activation(y)
    name, algorithm = ACTIVATIONS[activation]
    return fused(x, layer.weight, layer.bias, name, [], algorithm)


def _fused_for(x: Tensor, weight: Tensor) -> Callable[..., Tensor] | None:
    """The operator `FUSED`, if it can make `x` times this weight and pays."""
    if not predicts_on_cpu(x) or type(x) is not Tensor or x.dtype != weight.dtype or not x.is_contiguous():
        return None
    if x.numel() * weight.shape[0] < FUSED_PRODUCTS or torch.is_autocast_enabled("cpu"):
        return None
    return _fused(x.dtype)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Tokens (..., C) times the transpose of a matrix (C', C), (..., C'), by the faster of torch's libraries for it."""
    fused = _fused_for(x, weight) if WIDE else None
    if fused is None:
        return F.linear(x, weight)
    if not weight.T.is_contiguous():  # of strides between, oneDNN makes reference loops
        weight = weight.contiguous()
    return fused(x, weight, None, "none", [], "")


def products(x: Tensor, weights: Tensor, onto: Tensor | None = None) -> Tensor:
    """Rows of tokens (B, N, C) times the transposes of matrices (B, C', C): (B, N, C'), added to `onto` if given.

    `onto` broadcasts to the answer. As `product`, one row after the other.
    """
    if not (WIDE and predicts_on_cpu(x)):
        turned = weights.transpose(1, 2)
        return torch.bmm(x, turned) if onto is None else torch.baddbmm(onto, x, turned)
    made = x.new_empty(*x.shape[:2], weights.shape[1])
    rows = [None] * len(x) if onto is None else onto.expand(len(x), -1, -1)
    for row, tokens, weight, base in zip(made, x, weights, rows):
        answer = product(tokens.contiguous(), weight)
        row.copy_(answer) if base is None else torch.add(base, answer, out=row)
    return made


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
            x = linear(layer, x, None if index == last else self.activation)
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
