"""What a model sees of an image: the statistics that its pixels are normalised with."""

from __future__ import annotations

from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(values: Tensor) -> Tensor:
    """RGB values (B, 3, H, W) in [0, 1] with ImageNet's mean taken off and divided by its deviation, in their type."""
    mean = values.new_tensor(MEAN).view(1, 3, 1, 1)
    std = values.new_tensor(STD).view(1, 3, 1, 1)
    return (values - mean) / std
