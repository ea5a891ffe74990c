"""Axial rotary position encoding in real arithmetic.

The first half of the channels turns with x, the second with y; neighbouring channels (2i, 2i + 1) form a pair.
Same result as upstream's complex form, but it exports and runs in any floating type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.ops.tables import remembered


@remembered(32)
def _table(height: int, width: int, dim: int, theta: float, device: str) -> tuple[Tensor, Tensor]:
    frequency = theta ** (-torch.arange(0, dim, 4, dtype=torch.float32, device=device)[: dim // 4] / dim)
    cell = torch.arange(height * width, dtype=torch.float32, device=device)
    x = cell % width
    y = torch.div(cell, width, rounding_mode="floor")
    angle = torch.cat((torch.outer(x, frequency), torch.outer(y, frequency)), dim=1)
    return angle.cos(), angle.sin()


def table(grid: tuple[int, int], dim: int, theta: float, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Cosines and sines (H * W, dim / 2), fp32, of a (H, W) grid in row order."""
    if dim % 4:
        raise ValueError(f"rotary encoding needs a head width divisible by 4, not {dim}")
    return _table(*grid, dim, theta, str(torch.device(device)))


@remembered(4)  # a long past is some 30 MB, and every step of a track asks for the same
def _sequence(
    runs: tuple[tuple[tuple[int, int] | None, int], ...], dim: int, theta: float, device: str
) -> tuple[Tensor, Tensor]:
    parts = []
    for grid, length in runs:
        if grid is None:
            still = torch.ones(length, dim // 2, device=device)
            parts.append((still, torch.zeros_like(still)))
        else:
            assert grid[0] * grid[1] == length, f"a block of {length} tokens cannot lie on a {grid} grid"
            parts.append(table(grid, dim, theta, device))
    return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])


def sequence(
    runs: tuple[tuple[tuple[int, int] | None, int], ...], dim: int, theta: float, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, dim / 2) of a sequence of runs ``(grid, length)``; a run without a grid is not turned."""
    return _sequence(runs, dim, theta, str(torch.device(device)))


def rotate(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs of (..., N, dim) tokens by the angles whose cosines and sines (N, dim / 2) are given."""
    even, odd = tokens.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(tokens.dtype)
