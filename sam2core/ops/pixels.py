"""What a model sees of an image: the statistics that its pixels are normalised with."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.ops.tables import remembered

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@remembered(8)
def _statistics(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(numbers, dtype=dtype, device=device).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    return mean, std


def normalise(values: Tensor) -> Tensor:
    """RGB values (B, 3, H, W) in [0, 1] with ImageNet's mean taken off and divided by its deviation, in their type."""
    mean, std = _statistics(values.dtype, str(values.device))
    return (values - mean) / std
