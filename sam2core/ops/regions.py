"""Connected regions of masks: an operator that plugins can accelerate, and what is built on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sam2core.ops.operator import Composite, Operator

# neighbours within a mask, diagonals included; none across the masks of a batch
_EIGHT = np.zeros((3, 3, 3), dtype=bool)
_EIGHT[1] = True


def _components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Label the 8-connected regions of boolean masks (..., H, W): labels and areas, int32, of the masks' shape.

    A label is 0 outside every region and otherwise distinct among the regions of the batch; an area is the number of
    pixels of the pixel's region, 0 outside. This kernel computes on the CPU and serves every device; a plugin attaches
    a faster one with ``connected_components.register_kernel(device)``. Source: Meta's ``get_connected_components``.
    """
    from scipy import ndimage  # a third of a second, spent only by those who clean masks

    flat = mask.reshape(-1, *mask.shape[-2:]).bool().cpu().numpy()
    labels, _ = ndimage.label(flat, structure=_EIGHT)
    areas = np.bincount(labels.ravel())
    if areas.size:
        areas[0] = 0
    areas = areas[labels] if areas.size else np.zeros_like(labels)

    def back(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int32, copy=False)).view(mask.shape).to(mask.device)

    return back(labels), back(areas)


def _like(mask: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mask, dtype=torch.int32), torch.empty_like(mask, dtype=torch.int32)


connected_components = Operator("connected_components(Tensor mask) -> (Tensor, Tensor)", _components, _like)


@Composite
def small_regions(mask: Tensor, area: int) -> Tensor:
    """The part of boolean masks (..., H, W) that lies in regions of at most `area` pixels."""
    labels, areas = connected_components(mask)
    return (labels > 0) & (areas <= area)


def holes(logits: Tensor, area: int, threshold: float = 0.0) -> Tensor:
    """Background regions of at most `area` pixels, those at the border included, in logits (..., h, w); boolean."""
    return small_regions(logits <= threshold, area)


def islands(logits: Tensor, area: int, threshold: float = 0.0) -> Tensor:
    """Foreground regions of at most `area` pixels in logits (..., h, w); boolean."""
    return small_regions(logits > threshold, area)


def holding(mask: Tensor, places: Tensor, meant: Tensor) -> Tensor:
    """Only the regions of boolean masks (B, M, H, W) that hold one of their row's `places`; maybe none.

    `places` (B, P, 2) are x, y pixels, `meant` (B, P) says which of them count.
    """
    labels, _ = connected_components(mask)
    height, width = mask.shape[-2:]
    x = places[..., 0].long().clamp(0, width - 1)
    y = places[..., 1].long().clamp(0, height - 1)
    flat = labels.flatten(2)
    hit = flat.gather(2, (y * width + x).unsqueeze(1).expand(-1, mask.shape[1], -1))  # (B, M, P)
    hit = torch.where(meant.unsqueeze(1), hit, 0)
    return ((flat.unsqueeze(-1) == hit.unsqueeze(2)) & (hit > 0).unsqueeze(2)).any(dim=-1).view(mask.shape)


def largest(mask: Tensor) -> Tensor:
    """Only the largest region of each boolean mask (..., H, W); the first in reading order on ties."""
    labels, areas = connected_components(mask)
    flat = labels.flatten(-2)
    winner = flat.gather(-1, areas.flatten(-2).argmax(dim=-1, keepdim=True))
    return ((flat == winner) & (flat > 0)).view(mask.shape)


def without_small(mask: Tensor, area: int) -> Tensor:
    """A boolean mask (H, W) whose holes of less than `area` pixels are filled and whose islands of less are gone.

    Holes go first; when every island is small, the largest stays. Source: Meta's ``remove_small_regions``.
    """
    filled = mask | small_regions(~mask, area - 1)
    if not bool(filled.any()):
        return filled
    large = filled & ~small_regions(filled, area - 1)
    return large if bool(large.any()) else largest(filled)
