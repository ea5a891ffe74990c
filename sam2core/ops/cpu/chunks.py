"""Work in pieces that stay in a CPU's caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# What a layer makes of so many bytes of tokens stays in cache, and the allocator keeps the memory for the next chunk.
CHUNK_BYTES = 8 * 2**20


def predicts_on_cpu(x: Tensor) -> bool:
    """Whether work on `x` may be cut up for a CPU's caches: for eager prediction alone."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def chunked(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """`function` of tokens (..., C), each treated alone, giving (..., C'); inside it is at most `width` wide.

    Prediction goes chunk by chunk: what is made inside stays small.
    """
    rows = max(16, CHUNK_BYTES // (width * x.element_size()))
    if not predicts_on_cpu(x) or x.numel() <= rows * x.shape[-1]:
        return function(x)
    flat = x.reshape(-1, x.shape[-1])
    rows = -(-flat.shape[0] // -(-flat.shape[0] // rows))  # equal chunks: a small rest costs more than its share
    first = function(flat[:rows])
    out = first.new_empty(flat.shape[0], first.shape[-1])
    out[:rows] = first
    for start in range(rows, flat.shape[0], rows):
        out[start : start + rows] = function(flat[start : start + rows])
    return out.view(*x.shape[:-1], -1)
