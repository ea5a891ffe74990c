"""What people see of a photo and its masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam2core.media.drawing import draw_box, draw_mask, draw_name, draw_point
from sam2core.media.palettes import palette


def overlay(
    image: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray] = (),
    *,
    colors: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    opacity: float = 0.45,
    contour: float | None = None,
    points: np.ndarray | Sequence = (),
    labels: np.ndarray | Sequence | None = None,
    boxes: np.ndarray | Sequence = (),
    box_colors: np.ndarray | None = None,
) -> np.ndarray:
    """Draw masks, their contours and names, and the prompts over a photo.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        masks: (K, H, W) bool, later ones above earlier ones.
        colors: (K, 3) uint8; `palette(K)` when not given.
        names: K words, each written where its mask is widest, below a click that is there; empty masks go without, and
            so do images too small for the word.
        opacity: of the mask's colour, 0 to 1.
        contour: width of the outline in pixels, 0 for none; by default in proportion to the image.
        points: (P, 2) x, y in pixels.
        labels: (P,) 1 inside (green), 0 outside (red); all 1 when not given.
        boxes: (N, 4) x0, y0, x1, y1.
        box_colors: (N, 3) uint8; by default the masks' colours where there is one box per mask, white otherwise.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ValueError: sizes or types that do not fit together.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"the image to draw on is (H, W, 3) or (H, W) uint8, not {image.shape} of {image.dtype}")
    canvas = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()
    height, width = canvas.shape[:2]
    masks = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in masks:
        if mask.shape != (height, width):
            raise ValueError(f"a mask of {mask.shape} does not lie over an image of {(height, width)} (height, width)")
    colors = palette(len(masks)) if colors is None else np.asarray(colors)
    if colors.shape != (len(masks), 3):
        raise ValueError(f"{len(masks)} masks want colours of shape ({len(masks)}, 3), not {colors.shape}")
    if names is not None and len(names) != len(masks):
        raise ValueError(f"{len(masks)} masks want as many names, not {len(names)}")
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    if box_colors is None:
        box_colors = colors if len(boxes) == len(masks) else np.full((len(boxes), 3), 255)
    if len(box_colors) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes want as many colours, not {len(box_colors)}")
    points = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    labels = np.ones(len(points)) if labels is None else np.asarray(labels).reshape(-1)
    if len(labels) != len(points):
        raise ValueError(f"{len(points)} points want as many labels, not {len(labels)}")

    unit = max(0.5, min(height, width) / 300)
    stroke = 1.6 * unit if contour is None else float(contour)
    for mask, color in zip(masks, colors):
        draw_mask(canvas, mask, color, opacity, stroke)
    for box, color in zip(boxes, box_colors):
        draw_box(canvas, box, color, unit)
    for point, label in zip(points, labels):
        draw_point(canvas, point, bool(label > 0), 4.5 * max(0.75, unit))
    for mask, name in zip(masks, names or ()):
        draw_name(canvas, mask, str(name), round(max(11.0, 9 * unit)), clicks=points, reach=6 * max(0.75, unit))
    return canvas
