"""Axial rotary position encoding.

The first half of the channels turns with x, the second with y; neighbouring channels (2i, 2i + 1) form a pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.ops.operator import Operator
from sam2core.ops.tables import remembered

COMPLEX = ("cpu", "cuda")  # devices whose complex numbers can be relied on

Runs = tuple[tuple[tuple[int, int] | None, int], ...]


@remembered(32)
def _table(height: int, width: int, dim: int, theta: float, device: str) -> Tensor:
    frequency = theta ** (-torch.arange(0, dim, 4, dtype=torch.float32, device=device)[: dim // 4] / dim)
    cell = torch.arange(height * width, dtype=torch.float32, device=device)
    x = cell % width
    y = torch.div(cell, width, rounding_mode="floor")
    angle = torch.cat((torch.outer(x, frequency), torch.outer(y, frequency)), dim=1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


def table(grid: tuple[int, int], dim: int, theta: float, device: torch.device | str) -> Tensor:
    """The turns of a (H, W) grid in row order: cosines and sines (H * W, dim / 2, 2), fp32."""
    if dim % 4:
        raise ValueError(f"rotary encoding needs a head width divisible by 4, not {dim}")
    return _table(*grid, dim, theta, str(torch.device(device)))


@remembered(4)  # a long past is some 30 MB, and every step of a track asks for the same
def _sequence(runs: Runs, dim: int, theta: float, device: str) -> Tensor:
    parts = []
    for grid, length in runs:
        if grid is None:
            still = torch.zeros(length, dim // 2, 2, device=device)
            still[..., 0] = 1.0
            parts.append(still)
        else:
            assert grid[0] * grid[1] == length, f"a block of {length} tokens cannot lie on a {grid} grid"
            parts.append(table(grid, dim, theta, device))
    return torch.cat(parts)


def sequence(runs: Runs, dim: int, theta: float, device: torch.device | str) -> Tensor:
    """The turns (N, dim / 2, 2) of a sequence of runs ``(grid, length)``; a run without a grid is not turned."""
    return _sequence(runs, dim, theta, str(torch.device(device)))


def apply_rotary(tokens: Tensor, rotary: Tensor) -> Tensor:
    """Turn the channel pairs of (..., N, dim) tokens, in fp32, by `rotary` (N, dim / 2, 2).

    Prediction takes a kernel of `rotary_pairs` where one is attached.
    """
    if torch.compiler.is_compiling() or tokens.device.type not in COMPLEX:
        return _rotary_real(tokens, rotary)
    if torch.is_grad_enabled() or not rotary_pairs.attached(tokens):
        return rotary_complex(tokens, rotary)
    return rotary_pairs(tokens, rotary)


def rotary_complex(tokens: Tensor, rotary: Tensor) -> Tensor:
    """`apply_rotary` as a product of complex numbers.

    A plugin attaches a faster kernel for prediction with ``rotary_pairs.register_kernel(device, dtype)``.
    """
    pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(rotary)).flatten(-2).to(tokens.dtype)


def _rotary_real(tokens: Tensor, rotary: Tensor) -> Tensor:
    """The same in real arithmetic, which compiles, exports and runs on every device."""
    even, odd = tokens.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary.unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(tokens.dtype)


def _like(tokens: Tensor, rotary: Tensor) -> Tensor:
    return torch.empty_like(tokens)


rotary_pairs = Operator("rotary_pairs(Tensor tokens, Tensor rotary) -> Tensor", rotary_complex, _like)
