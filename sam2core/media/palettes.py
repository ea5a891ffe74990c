"""Colours that are easy to tell apart, and the colour table of DAVIS's mask files."""

from __future__ import annotations

import colorsys

import numpy as np

# Apart from each other and from most photos, also for the colour-blind; the golden angle goes on from there.
_BRIGHT = (
    (30, 144, 255),
    (255, 111, 0),
    (0, 191, 130),
    (233, 30, 140),
    (255, 200, 0),
    (130, 90, 255),
    (0, 200, 220),
    (220, 40, 40),
)
# Okabe and Ito, "Color Universal Design" (2008), without its black
_COLORBLIND = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
PALETTES = ("bright", "davis", "colorblind", "pastel")


def palette(count: int, name: str = "bright") -> np.ndarray:
    """Return `count` colours easy to tell apart, (count, 3) uint8; the first ones are the same for every `count`.

    Args:
        name: ``"bright"``, ``"davis"`` (those of DAVIS and PASCAL VOC), ``"colorblind"`` (Okabe and Ito), ``"pastel"``.

    Raises:
        ValueError: no palette of that name.
    """
    if name not in PALETTES:
        raise ValueError(f"palettes are {', '.join(PALETTES)}, not {name!r}")
    if name == "davis":
        return davis()[1 + np.arange(count) % 255]
    first = {"bright": _BRIGHT, "colorblind": _COLORBLIND, "pastel": ()}[name]
    colors: list[tuple[int, ...]] = list(first[:count])
    for index in range(len(colors), count):
        hue = (0.61803398875 * index) % 1.0
        saturation = 0.3 + 0.15 * (index % 2) if name == "pastel" else 0.55 + 0.4 * (index % 2)
        colors.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, 1.0)))
    return np.array(colors, dtype=np.uint8).reshape(count, 3)


def davis() -> np.ndarray:
    """The colour table of DAVIS's and PASCAL VOC's mask files, (256, 3) uint8; 0, the background, is black.

    Bits 0, 3, 6 of a number are the highest bits of its red, 1, 4, 7 of its green, 2, 5 of its blue.
    """
    number = np.arange(256)
    table = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        table[:, bit % 3] |= ((number >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return table
