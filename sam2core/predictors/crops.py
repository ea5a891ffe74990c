"""Where an automatic generator looks: grids of points, and an image's crops in layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Crop = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; the last corner is outside."""


def point_grid(side: int) -> np.ndarray:
    """The centres of `side` x `side` cells of the unit square, (side², 2) x, y in reading order."""
    line = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    x, y = np.meshgrid(line, line)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def point_grids(side: int, layers: int, downscale: int) -> list[np.ndarray]:
    """A grid for the image and one for each layer of crops, `downscale` times sparser from layer to layer.

    Raises ValueError when the last layer would have no points.
    """
    sides = [int(side / downscale**layer) for layer in range(layers + 1)]
    if min(sides) < 1:
        raise ValueError(
            f"{side} points a side, {downscale} times fewer in each of {layers} layers, leave a layer without points"
        )
    return [point_grid(count) for count in sides]


def read_grids(grids: Sequence[Any], layers: int) -> list[np.ndarray]:
    """A user's grids, one per layer, checked: (N, 2) x, y in [0, 1]. Raises ValueError for anything else."""
    checked = [np.asarray(grid, dtype=np.float64) for grid in grids]
    if len(checked) <= layers:
        raise ValueError(f"{layers} layers of crops and the image need {layers + 1} point grids, not {len(checked)}")
    for layer, grid in enumerate(checked):
        if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid):
            raise ValueError(f"point grid {layer} is (N, 2), x and y as shares of the image, not {grid.shape}")
        if not (np.isfinite(grid).all() and grid.min() >= 0 and grid.max() <= 1):
            raise ValueError(f"point grid {layer} lies in [0, 1]; this one has {grid.min():g}..{grid.max():g}")
    return checked


def crops(size: tuple[int, int], layers: int, overlap: float) -> list[tuple[Crop, int]]:
    """The image itself and then, layer by layer, 2 x 2, 4 x 4, ... overlapping crops of it, each with its layer.

    `size` is (H, W); in the first layer crops share `overlap` of the shorter side, later ones proportionally less.
    Source: Meta's ``generate_crop_boxes``.
    """
    height, width = size
    found: list[tuple[Crop, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * (2 / count))
        w, h = (math.ceil((shared * (count - 1) + side) / count) for side in (width, height))
        for column in range(count):
            for row in range(count):
                x, y = column * (w - shared), row * (h - shared)
                found.append(((x, y, min(x + w, width), min(y + h, height)), layer))
    return found
