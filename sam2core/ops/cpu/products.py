"""Products of matrices by the faster of torch's libraries for them, and linear layers in one go."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.cpu.chunks import predicts_on_cpu
from sam2core.ops.layers import linear_act

# torch's product, bias and activation in one, for CPUs (oneDNN); `F.linear` writes the bias first and adds to it.
FUSED = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
ACTIVATIONS = {None: ("none", ""), F.relu: ("relu", ""), F.gelu: ("gelu", "none")}
# The same on what a product has just made, where nobody else has seen it yet.
IN_PLACE = {None: lambda y: y, F.relu: torch.relu_, F.gelu: torch._C._nn.gelu_}  # type: ignore[attr-defined]
# Where vectors are this short, oneDNN's products are no faster than MKL's, and its GELU takes seven times torch's own.
NARROW = torch.backends.cpu.get_cpu_capability() == "AVX2"
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


@cache
def _fused(dtype: torch.dtype) -> Callable[..., Tensor] | None:
    """The operator `FUSED`, if this torch has it as it is written here, for a type that it is fast in."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    if found is None or str(found.default._schema) != FUSED:
        return None
    return found.default if dtype in (torch.float32, torch.bfloat16) and multiplies(dtype) else None


def multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of that type on this processor; torch makes slow loops of the others.

    Where torch has no oneDNN (Apple's processors) nothing is known, and the answer is yes.
    """
    if not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is its weight and bias and nothing else: no adapter, and nobody watches it with a hook."""
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


@linear_act.register_kernel("cpu")
def fused_linear_act(x: Tensor, layer: nn.Module, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The layer and its activation in one go, for layers that are plain; others are called as they are."""
    fused = _fused_for(x, layer.weight) if is_plain(layer) and activation in ACTIVATIONS else None
    if fused is None:
        return linear_act.plain(x, layer, activation)
    if NARROW and x.dtype == torch.float32:
        return IN_PLACE[activation](layer(x))
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
        transposed = weights.transpose(1, 2)
        return torch.bmm(x, transposed) if onto is None else torch.baddbmm(onto, x, transposed)
    made = x.new_empty(*x.shape[:2], weights.shape[1])
    rows = [None] * len(x) if onto is None else onto.expand(len(x), -1, -1)
    for row, tokens, weight, base in zip(made, x, weights, rows):
        answer = product(tokens.contiguous(), weight)
        row.copy_(answer) if base is None else torch.add(base, answer, out=row)
    return made
