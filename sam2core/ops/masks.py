"""Resize, compare and describe masks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NAN = (
    "the mask decoder answers with NaN: the weights are damaged, the image holds NaN, or numbers grew "
    "beyond float16 (bfloat16 and float32 hold them)"
)


def refuse_nan(*answers: Tensor) -> None:
    """Nothing, unless one of a mask decoder's answers holds NaN, which would pass for an empty mask.

    Raises
        ValueError: it does.
    """
    if bool(torch.stack([answer.sum().isnan() for answer in answers]).any()):  # one wait, whatever the device
        raise ValueError(NAN)


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (B, M, h, w) at another (H, W), bilinear, in fp32; no antialiasing, as SAM 2 resizes its answers."""
    logits = logits.float()
    if logits.shape[-2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def resize_window(logits: Tensor, size: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """The window x0, y0, x1, y1 (the last corner outside) of what `resize` makes of logits (h, w) at (H, W), in fp32.

    Equal up to rounding, and costs what the window covers.
    """
    x0, y0, x1, y1 = window
    rows, rows_after, down = _between(logits.shape[0], size[0], y0, y1, logits.device)
    columns, columns_after, along = _between(logits.shape[1], size[1], x0, x1, logits.device)
    first, last = int(columns[0]), int(columns_after[-1]) + 1
    part = logits[:, first:last].float()
    lines = torch.lerp(part[rows], part[rows_after], down.unsqueeze(1))
    return torch.lerp(lines[:, columns - first], lines[:, columns_after - first], along)


def _between(length: int, size: int, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For pixels `start` to `stop` of a line of `size`: the two of `length` they lie between, and how far along."""
    at = ((torch.arange(start, stop, device=device) + 0.5) * (length / size) - 0.5).clamp(min=0)
    before = at.long().clamp(max=length - 1)
    return before, (before + 1).clamp(max=length - 1), at - before


def stability_score(logits: Tensor, delta: float, threshold: float = 0.0) -> Tensor:
    """How little a mask's area depends on the threshold: area at +`delta` over area at -`delta`, per (..., h, w) mask.

    1.0 for a mask that is empty at both (Meta's ``_get_stability_scores``).
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

    An empty mask gives zeros (Meta's ``batched_mask_to_box``).
    """
    rows, columns = masks.any(dim=-1), masks.any(dim=-2)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.arange(line.shape[-1], device=line.device)
        first = torch.where(line, index, line.shape[-1]).amin(dim=-1)
        return first, torch.where(line, index, -1).amax(dim=-1)

    (y0, y1), (x0, x1) = ends(rows), ends(columns)
    return torch.stack([x0, y0, x1, y1], dim=-1) * rows.any(dim=-1, keepdim=True)


def non_overlapping(logits: Tensor, below: float = -10.0) -> Tensor:
    """Give every pixel of (objects, H, W) logits to its strongest object; the others are clamped to `below` there.

    Source: Meta's ``_apply_non_overlapping_constraints``.
    """
    if logits.shape[0] < 2:
        return logits
    owner = logits.argmax(dim=0, keepdim=True)
    owned = owner == torch.arange(logits.shape[0], device=logits.device).view(-1, 1, 1)
    return torch.where(owned, logits, logits.clamp(max=below))


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which boxes (N, 4) stay when each one removes those of lower score that overlap it by more than `threshold`.

    Indices in the order of falling scores, ties in the given order; IoU in fp32, a width is x1 - x0. Two boxes without
    area do not remove each other.
    """
    from torchvision.ops import nms as kept  # here: whoever needs no automatic masks need not wait for its import

    corners, ranks = (torch.from_numpy(np.asarray(values, dtype=np.float32)) for values in (boxes, scores))
    return kept(corners, ranks, threshold).numpy()


def near_cut(
    boxes: np.ndarray, crop: tuple[int, int, int, int], size: tuple[int, int], reach: float = 20.0
) -> np.ndarray:
    """Which boxes (N, 4) of an image of (H, W) touch a side of their crop that is not a side of the image.

    A side within `reach` pixels counts as touched (Meta's ``is_box_near_crop_edge``).
    """
    boxes = np.asarray(boxes, dtype=np.float32)
    at_crop = np.abs(boxes - np.asarray(crop, dtype=np.float32)) <= reach
    at_edge = np.abs(boxes - np.asarray((0, 0, size[1], size[0]), dtype=np.float32)) <= reach
    return (at_crop & ~at_edge).any(axis=1)
