"""Boxes of masks, as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core_tracking.kalman import NOTHING, Box


def boxes(masks: Tensor) -> list[Box]:
    """The tight boxes of boolean masks (N, H, W), last row and column included; `NOTHING` for an empty one.

    The numbers come from the device in one go.
    """
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    height, width = masks.shape[-2:]
    edges = torch.stack(
        [
            columns.float().argmax(dim=1),
            rows.float().argmax(dim=1),
            width - 1 - columns.flip(1).float().argmax(dim=1),
            height - 1 - rows.flip(1).float().argmax(dim=1),
            rows.any(dim=1).long(),
        ],
        dim=1,
    ).tolist()
    return [(float(x0), float(y0), float(x1), float(y1)) if there else NOTHING for x0, y0, x1, y1, there in edges]
