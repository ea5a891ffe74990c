"""The exact distance transform, as an operator that plugins can accelerate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sam2core.ops.operator import Operator


def _distances(mask: Tensor) -> Tensor:
    """The Euclidean distance, in pixels, of each True pixel of masks (..., H, W) to the nearest False one; fp32.

    Pixels beyond the border count as neither; a mask without any False pixel gives the distance to a border of False
    pixels around it. This kernel computes on the CPU and serves every device; a plugin attaches a faster one with
    ``distance_transform.register_kernel(device)``.
    """
    from scipy import ndimage  # a third of a second, spent only by those who ask for distances

    flat = mask.reshape(-1, *mask.shape[-2:]).bool().cpu().numpy()
    out = np.zeros(flat.shape, dtype=np.float32)
    for index, one in enumerate(flat):
        if one.all():
            out[index] = ndimage.distance_transform_edt(np.pad(one, 1))[1:-1, 1:-1]
        elif one.any():
            out[index] = ndimage.distance_transform_edt(one)
    return torch.from_numpy(out).view(mask.shape).to(mask.device)


def _like(mask: Tensor) -> Tensor:
    return torch.empty_like(mask, dtype=torch.float32)


distance_transform = Operator("distance_transform(Tensor mask) -> Tensor", _distances, _like)
