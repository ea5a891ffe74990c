"""Resize, compare and describe masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (B, M, h, w) at another (H, W), bilinear, in fp32; no antialiasing, as SAM 2 resizes its answers."""
    logits = logits.float()
    if logits.shape[-2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def stability_score(logits: Tensor, delta: float, threshold: float = 0.0) -> Tensor:
    """How little a mask's area depends on the threshold: area at +`delta` over area at -`delta`, per (..., h, w) mask.

    1.0 for a mask that is empty at both (upstream: ``_get_stability_scores``).
    """
    inner = (logits > threshold + delta).flatten(-2).sum(-1).float()
    outer = (logits > threshold - delta).flatten(-2).sum(-1).float()
    return torch.where(outer > 0, inner / outer, 1.0)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boolean masks (..., h, w); 1.0 when both are empty."""
    intersection = (a & b).flatten(-2).sum(-1).float()
    union = (a | b).flatten(-2).sum(-1).float()
    return torch.where(union > 0, intersection / union, 1.0)


def boxes(masks: Tensor) -> Tensor:
    """The tight boxes (..., 4) of boolean masks (..., H, W): x0, y0, x1, y1 in pixels, the last corner inclusive.

    An empty mask gives zeros (upstream: ``batched_mask_to_box``).
    """
    rows, columns = masks.any(dim=-1), masks.any(dim=-2)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.arange(line.shape[-1], device=line.device)
        first = torch.where(line, index, line.shape[-1]).amin(dim=-1)
        return first, torch.where(line, index, -1).amax(dim=-1)

    (y0, y1), (x0, x1) = ends(rows), ends(columns)
    return torch.stack([x0, y0, x1, y1], dim=-1) * rows.any(dim=-1, keepdim=True)


def exclusive(logits: Tensor, below: float = -10.0) -> Tensor:
    """Give every pixel of (objects, H, W) logits to its strongest object; the others are clamped to `below` there.

    Source: upstream ``_apply_non_overlapping_constraints``.
    """
    if logits.shape[0] < 2:
        return logits
    owner = logits.argmax(dim=0, keepdim=True)
    owned = owner == torch.arange(logits.shape[0], device=logits.device).view(-1, 1, 1)
    return torch.where(owned, logits, logits.clamp(max=below))
