"""Where things are: sine maps, random Fourier codes and rotary turns, under Meta's names."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sam2.untouched import written
from sam2core.ops import rope
from sam2core.ops.position import cell_centres, fourier


class PositionEmbeddingSine(nn.Module):
    """The sine code (B, C, H, W) of a map's cells; `num_pos_feats` is C. Maps of one size share a code, in `cache`."""

    def __init__(
        self,
        num_pos_feats,
        temperature: int = 10000,
        normalize: bool = True,
        scale: float | None = None,
        warmup_cache: bool = True,
        image_size: int = 1024,
        strides: tuple[int, ...] = (4, 8, 16, 32),
    ):
        super().__init__()
        if num_pos_feats % 2:
            raise ValueError(f"num_pos_feats must be even, not {num_pos_feats}")
        if scale is not None and not normalize:
            raise ValueError("scale is for normalize=True")
        self.num_pos_feats = num_pos_feats // 2
        self.temperature = temperature
        self.normalize = normalize
        self.scale = 2 * math.pi if scale is None else scale
        self.cache: dict[tuple[int, int], Tensor] = {}

    def _waves(self, along: Tensor) -> Tensor:
        """Places (N,) as (N, C / 2): sine and cosine in turn."""
        index = torch.arange(self.num_pos_feats, dtype=torch.float32, device=along.device)
        length = self.temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / self.num_pos_feats)
        angle = along[:, None] / length
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    def _encode_xy(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of places in [0, 1]."""
        return self._waves(x * self.scale), self._waves(y * self.scale)

    @torch.no_grad()
    def encode_boxes(self, x: Tensor, y: Tensor, w: Tensor, h: Tensor) -> Tensor:
        """The code (N, C + 2) of boxes by their centres, with height and width at the end."""
        along_x, along_y = self._encode_xy(x, y)
        return torch.cat((along_y, along_x, h[:, None], w[:, None]), dim=1)

    encode = encode_boxes

    @torch.no_grad()
    def encode_points(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """The code (B, N, C + 1) of points (B, N), with their labels at the end."""
        assert x.shape == y.shape == labels.shape, "each point has an x, a y and a label"
        along_x, along_y = (one.unflatten(0, x.shape) for one in self._encode_xy(x.flatten(), y.flatten()))
        return torch.cat((along_y, along_x, labels[:, :, None]), dim=2)

    @torch.no_grad()
    def _pe(self, B: int, device: Any, *cache_key: int) -> Tensor:
        if cache_key not in self.cache:
            height, width = cache_key
            along = []
            for count in (height, width):
                places = torch.arange(1, count + 1, dtype=torch.float32, device=device)
                along.append(self._waves(places / (count + 1e-6) * self.scale if self.normalize else places).T)
            y = along[0][:, :, None].expand(-1, -1, width)
            x = along[1][:, None, :].expand(-1, height, -1)
            self.cache[(height, width)] = torch.cat((y, x))
        return self.cache[cache_key].to(device)[None].repeat(B, 1, 1, 1)  # type: ignore[index]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The code of a map (B, _, H, W)."""
        return self._pe(x.shape[0], x.device, x.shape[-2], x.shape[-1])


class PositionEmbeddingRandom(nn.Module):
    """The random Fourier code of places; the matrix is part of a checkpoint."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        matrix = torch.randn(2, num_pos_feats)
        self.register_buffer(
            "positional_encoding_gaussian_matrix", matrix if scale is None or scale <= 0.0 else scale * matrix
        )

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """The code (..., C) of x, y places (..., 2) in [0, 1]."""
        return fourier(coords, self.positional_encoding_gaussian_matrix)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """The code (C, H, W) of a grid's cells."""
        centres = cell_centres((size[0], size[1]), self.positional_encoding_gaussian_matrix.device)
        return self._pe_encoding(centres).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The code (B, N, C) of places (B, N, 2) in pixels of an image of (H, W)."""
        return self._pe_encoding((coords_input / coords_input.new_tensor([image_size[1], image_size[0]])).float())


def init_t_xy(end_x: int, end_y: int) -> tuple[Tensor, Tensor]:
    """The x and the y of each cell of a grid, row by row."""
    cell = torch.arange(int(end_x) * int(end_y), dtype=torch.float32)
    return cell % end_x, torch.div(cell, end_x, rounding_mode="floor")


def compute_axial_cis(dim: int, end_x: int, end_y: int, theta: float = 10000.0) -> Tensor:
    """The turns (end_x * end_y, dim / 2) of a grid's cells as complex numbers."""
    return torch.view_as_complex(rope.table((int(end_y), int(end_x)), dim, theta, "cpu"))


def reshape_for_broadcast(freqs_cis: Tensor, x: Tensor) -> Tensor:
    """Turns (N, D) with dimensions of size 1 in front, as many as pairs (..., N, D) have."""
    assert freqs_cis.shape == x.shape[-2:], f"turns {tuple(freqs_cis.shape)} do not fit {tuple(x.shape)}"
    return freqs_cis.view(*[1] * (x.ndim - 2), *freqs_cis.shape)


def apply_rotary_enc(xq: Tensor, xk: Tensor, freqs_cis: Tensor, repeat_freqs_k: bool = False) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, heads, N, D) with each pair of channels turned.

    With `repeat_freqs_k` there are keys of several grids, one behind the other.
    """

    def turned(x: Tensor, turns: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * reshape_for_broadcast(turns, pairs)).flatten(-2).type_as(x)

    queries = turned(xq, freqs_cis)
    if xk.shape[-2] == 0:
        return queries, xk
    grids = xk.shape[-2] // xq.shape[-2] if repeat_freqs_k else 1
    return queries, turned(xk, freqs_cis.unsqueeze(0).expand(grids, -1, -1).flatten(0, 1))


written(globals())
