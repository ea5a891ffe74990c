"""A clip to train on: a bright square wanders over a dark ground, another comes in later and hides it at times."""

from __future__ import annotations

import numpy as np

from sam2core.training.clips import Clip


def wandering(frames: int = 4, size: int = 64, *, late: bool = True) -> Clip:
    """(frames, size, size) and two objects; with `late` the second is first seen on frame 1."""
    pixels = np.full((frames, size, size, 3), (40, 60, 50), np.uint8)
    masks = np.zeros((frames, 2, size, size), bool)
    for t in range(frames):
        left = size // 8 + t * size // 16  # edges lie on those of the masks that are predicted
        masks[t, 0, size // 4 : size // 4 + size // 2, left : left + 5 * size // 16] = True
        if t or not late:
            top = size // 2 + t * size // 16
            masks[t, 1, top : top + size // 4, size // 2 : size - 4] = True
        masks[t, 0] &= ~masks[t, 1]
        pixels[t][masks[t, 0]] = (220, 90, 60)
        pixels[t][masks[t, 1]] = (70, 120, 230)
    return Clip(pixels, masks, "wandering")
