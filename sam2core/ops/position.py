"""Position codes: sine grids, random Fourier coordinates, sine time.

The tables depend on sizes alone and are computed once per (size, device). They are made outside
inference mode, so that a table first needed by a prediction can serve a training step later.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.ops.tables import remembered


def _pairwise_frequencies(count: int, temperature: float, device: torch.device | str | None) -> Tensor:
    """`count` wavelengths from 1 to `temperature`, in equal pairs (i // 2)."""
    index = torch.arange(count, dtype=torch.float32, device=device)
    return temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / count)


@remembered(32)
def _sine_grid(height: int, width: int, dim: int, temperature: float, device: str) -> Tensor:
    rows = torch.arange(1, height + 1, dtype=torch.float32, device=device) / (height + 1e-6) * (2 * math.pi)
    columns = torch.arange(1, width + 1, dtype=torch.float32, device=device) / (width + 1e-6) * (2 * math.pi)
    wavelength = _pairwise_frequencies(dim // 2, temperature, device)

    def code(along: Tensor) -> Tensor:  # (n,) -> (dim / 2, n), sine and cosine interleaved
        angle = along[:, None] / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1).T

    y = code(rows)[:, :, None].expand(-1, -1, width)
    x = code(columns)[:, None, :].expand(-1, height, -1)
    return torch.cat((y, x)).unsqueeze(0).contiguous()


def sine_grid(
    grid: tuple[int, int], dim: int, device: torch.device | str | None = None, temperature: float = 10000.0
) -> Tensor:
    """The sine position map (1, dim, H, W), fp32, of a (H, W) grid: y in the first half of the channels, then x.

    Rows and columns count from 1 and are divided by the last (Meta's ``PositionEmbeddingSine``).
    """
    if dim % 4:
        raise ValueError(f"a sine grid needs a width divisible by 4, not {dim}")
    return _sine_grid(*grid, dim, temperature, str(torch.device(device or "cpu")))


@remembered(32)
def _sine_tokens(height: int, width: int, dim: int, dtype: torch.dtype, device: str) -> Tensor:
    return _sine_grid(height, width, dim, 10000.0, device).flatten(2).transpose(1, 2).to(dtype).contiguous()


def sine_tokens(
    grid: tuple[int, int], dim: int, dtype: torch.dtype, device: torch.device | str | None = None
) -> Tensor:
    """`sine_grid` as tokens (1, H * W, dim) of a type: one tensor for all who ask for the same."""
    if dim % 4:
        raise ValueError(f"a sine grid needs a width divisible by 4, not {dim}")
    return _sine_tokens(*grid, dim, dtype, str(torch.device(device or "cpu")))


def sine_time(time: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """The code (N, dim), fp32, of points in time (N,): all sines, then all cosines (Meta's ``get_1d_sine_pe``)."""
    angle = time.float()[:, None] / _pairwise_frequencies(dim // 2, temperature, time.device)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def fourier(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    """The random Fourier code (..., dim) of x, y coordinates (..., 2) in [0, 1].

    `frequencies` is the Gaussian matrix (2, dim / 2); sines fill the first half of the code, cosines the second
    (Meta's ``PositionEmbeddingRandom``).
    """
    angle = (2 * coordinates.float() - 1) @ frequencies.float() * (2 * math.pi)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


@remembered(32)
def _bicubic_weights(before: int, after: int, device: str) -> Tensor:
    unit = torch.eye(before, device=device)[None, None]
    return F.interpolate(unit, size=(after, before), mode="bicubic")[0, 0].contiguous()


def _without_autocast(device: str) -> AbstractContextManager[object]:
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def bicubic(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """A (h, w, C) grid at another size (H, W, C), bicubic, as two small matrix products: rows, then columns.

    Equal to `F.interpolate` up to rounding, without its pass over the large map for every tap.
    """
    device = str(grid.device)
    rows = _bicubic_weights(grid.shape[0], size[0], device)
    columns = _bicubic_weights(grid.shape[1], size[1], device)
    with _without_autocast(grid.device.type):
        wide = columns @ grid  # (h, W, C)
        return (rows @ wide.flatten(1)).unflatten(1, (size[1], -1))


@remembered(32)
def _cell_centres(height: int, width: int, device: str) -> Tensor:
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack((x[None, :].expand(height, -1), y[:, None].expand(-1, width)), dim=-1)


def cell_centres(grid: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
    """The x, y centres (H, W, 2), in [0, 1], of the cells of a (H, W) grid."""
    return _cell_centres(*grid, str(torch.device(device or "cpu")))
