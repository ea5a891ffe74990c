"""Boxes of masks, as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.ops import masks as mask_ops
from sam2core_tracking.kalman import NOTHING, Box


def boxes(masks: Tensor) -> list[Box]:
    """The tight boxes of boolean masks (N, H, W), last row and column included; `NOTHING` for an empty one.

    The numbers come from the device in one go.
    """
    there = masks.flatten(1).any(dim=1, keepdim=True)
    numbers = torch.cat([mask_ops.boxes(masks), there], dim=1).tolist()
    return [(float(x0), float(y0), float(x1), float(y1)) if seen else NOTHING for x0, y0, x1, y1, seen in numbers]
