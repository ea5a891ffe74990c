"""Pictures for people: masks, contours and prompts drawn over a photograph. Arrays in, an array out; needs no model."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

# Apart from each other and from most photographs, also for the colour-blind; the golden angle goes on from there.
_COLORS = (
    (30, 144, 255),
    (255, 111, 0),
    (0, 191, 130),
    (233, 30, 140),
    (255, 200, 0),
    (130, 90, 255),
    (0, 200, 220),
    (220, 40, 40),
)
_POSITIVE, _NEGATIVE, _WHITE, _DARK = (46, 190, 80), (225, 45, 45), (255, 255, 255), (20, 20, 20)


def palette(count: int) -> np.ndarray:
    """Return `count` colours easy to tell apart, (count, 3) uint8; the first ones are the same for every `count`."""
    colors: list[tuple[int, ...]] = list(_COLORS[:count])
    for index in range(len(colors), count):
        hue = (0.61803398875 * index) % 1.0
        colors.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (index % 2), 1.0)))
    return np.array(colors, dtype=np.uint8).reshape(count, 3)


def overlay(
    image: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray] = (),
    *,
    colors: np.ndarray | None = None,
    opacity: float = 0.45,
    contour: float | None = None,
    points: np.ndarray | Sequence = (),
    labels: np.ndarray | Sequence | None = None,
    boxes: np.ndarray | Sequence = (),
) -> np.ndarray:
    """Draw masks, their contours and the prompts over a photograph.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        masks: (K, H, W) bool, later ones above earlier ones.
        colors: (K, 3) uint8; `palette(K)` when not given.
        opacity: of the mask's colour, 0 to 1.
        contour: width of the outline in pixels, 0 for none; by default in proportion to the image.
        points: (P, 2) x, y in pixels.
        labels: (P,) 1 inside (green), 0 outside (red); all 1 when not given.
        boxes: (N, 4) x0, y0, x1, y1, each in the colour of the mask of the same index where there is one per mask.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ValueError: sizes or types that do not fit together.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"the picture to draw on is (H, W, 3) or (H, W) uint8, not {image.shape} of {image.dtype}")
    canvas = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    canvas = canvas.astype(np.float32)
    height, width = canvas.shape[:2]
    masks = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in masks:
        if mask.shape != (height, width):
            raise ValueError(f"a mask of {mask.shape} does not lie over a picture of {(height, width)} (height, width)")
    colors = palette(len(masks)) if colors is None else np.asarray(colors)
    if colors.shape != (len(masks), 3):
        raise ValueError(f"{len(masks)} masks want colours of shape ({len(masks)}, 3), not {colors.shape}")
    unit = max(1.0, min(height, width) / 300)
    stroke = 1.6 * unit if contour is None else float(contour)
    for mask, color in zip(masks, colors):
        _draw_mask(canvas, mask, color, opacity, stroke)

    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    frames = colors if len(boxes) == len(masks) else np.full((len(boxes), 3), 255)
    for box, color in zip(boxes, frames):
        _draw_box(canvas, box, color, unit)
    points = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    labels = np.ones(len(points)) if labels is None else np.asarray(labels).reshape(-1)
    if len(labels) != len(points):
        raise ValueError(f"{len(points)} points want as many labels, not {len(labels)}")
    for point, label in zip(points, labels):
        _draw_point(canvas, point, bool(label > 0), 4.5 * unit)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _blend(canvas: np.ndarray, color: np.ndarray | Sequence[int], alpha: np.ndarray) -> None:
    """Lay a colour over a part of the canvas, in place; alpha (h, w) is 0 to 1."""
    canvas += alpha[..., None] * (np.asarray(color, dtype=np.float32) - canvas)


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray, opacity: float, stroke: float) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return
    reach = int(np.ceil(2 * stroke)) + 2
    window = (
        slice(max(0, rows[0] - reach), rows[-1] + 1 + reach),
        slice(max(0, columns[0] - reach), columns[-1] + 1 + reach),
    )
    part, inside = canvas[window], mask[window]
    _blend(part, color, opacity * inside)
    if stroke <= 0 or inside.all():
        return
    # signed distance to the border, positive inside: the line is as smooth as a line of that width can be
    depth = np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside))
    _blend(part, _WHITE, 0.85 * np.clip(0.4 * stroke + 0.5 - abs(depth + 0.8 * stroke), 0, 1))
    _blend(part, color, np.clip(0.5 * stroke + 0.5 - abs(depth), 0, 1))


def _patches(
    canvas: np.ndarray, left: float, top: float, right: float, bottom: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the part of the canvas a drawing touches with x and y of its pixels; nothing when outside."""
    height, width = canvas.shape[:2]
    x0, x1 = max(0, int(np.floor(left))), min(width, int(np.ceil(right)) + 1)
    y0, y1 = max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)) + 1)
    if x0 < x1 and y0 < y1:
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        yield canvas[y0:y1, x0:x1], x, y


def _draw_box(canvas: np.ndarray, box: np.ndarray, color: np.ndarray, unit: float) -> None:
    x0, y0, x1, y1 = box
    margin = 3 * unit + 1
    for part, x, y in _patches(canvas, x0 - margin, y0 - margin, x1 + margin, y1 + margin):
        across, along = abs(x - (x0 + x1) / 2) - (x1 - x0) / 2, abs(y - (y0 + y1) / 2) - (y1 - y0) / 2
        away = abs(np.maximum(across, along))
        _blend(part, _WHITE, 0.9 * np.clip(1.6 * unit + 0.5 - away, 0, 1))
        _blend(part, color, np.clip(0.8 * unit + 0.5 - away, 0, 1))


def _draw_point(canvas: np.ndarray, point: np.ndarray, positive: bool, radius: float) -> None:
    """A disc with a plus or a minus in it, so that colour is not all that tells a click inside from one outside."""
    px, py = point
    reach = radius + 3
    for part, x, y in _patches(canvas, px - reach, py - reach, px + reach, py + reach):
        away = np.hypot(x - px, y - py)
        _blend(part, _DARK, 0.6 * np.clip(radius * 1.18 + 1.0 - away, 0, 1))
        _blend(part, _WHITE, np.clip(radius * 1.12 + 0.5 - away, 0, 1))
        _blend(part, _POSITIVE if positive else _NEGATIVE, np.clip(radius * 0.86 + 0.5 - away, 0, 1))
        thick, length = radius * 0.14, radius * 0.52
        bar = np.clip(thick + 0.5 - abs(y - py), 0, 1) * np.clip(length + 0.5 - abs(x - px), 0, 1)
        if positive:
            post = np.clip(thick + 0.5 - abs(x - px), 0, 1) * np.clip(length + 0.5 - abs(y - py), 0, 1)
            bar = np.maximum(bar, post)
        _blend(part, _WHITE, bar)
