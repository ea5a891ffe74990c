"""Drawing on photos, in place: masks with contours, names, boxes and clicks, with smooth edges."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, maximum_filter

from sam2core.ops.polygons import window_around

_POSITIVE, _NEGATIVE, _WHITE, _DARK = (46, 190, 80), (225, 45, 45), (255, 255, 255), (20, 20, 20)
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_TILE = 64


def centre(mask: np.ndarray) -> tuple[int, int] | None:
    """The x, y of a pixel inside a mask (H, W), where it is about widest; None for an empty mask."""
    window = window_around(mask, 0)
    if window is None:
        return None
    inside = mask[window]
    step = max(1, max(inside.shape) // 128)
    if not inside[::step, ::step].any():
        step = 1
    depth = distance_transform_edt(np.pad(inside[::step, ::step], 1))
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(window[1].start + (column - 1) * step), int(window[0].start + (row - 1) * step)


def _blend(canvas: np.ndarray, color: np.ndarray | Sequence[int], alpha: np.ndarray) -> None:
    """Lay a colour over a part of the canvas, in place; alpha (h, w) is 0 to 1."""
    values = canvas + alpha[..., None] * (np.asarray(color, dtype=np.float32) - canvas)
    canvas[...] = np.clip(np.rint(values), 0, 255)


def draw_mask(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray, opacity: float, stroke: float) -> None:
    reach = int(np.ceil(2 * stroke)) + 2
    window = window_around(mask, reach)
    if window is None:
        return
    part, inside = canvas[window], mask[window]
    for channel, value in enumerate(np.asarray(color, dtype=np.float64)):
        table = np.arange(256) + opacity * (value - np.arange(256))
        table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
        np.copyto(part[..., channel], table[part[..., channel]], where=inside)
    if stroke <= 0:
        return
    # distances matter near the border only: tiles without a border are left out, which is most of a large mask
    height, width = inside.shape
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            y0, x0 = max(0, top - reach), max(0, left - reach)
            around = inside[y0 : top + _TILE + reach, x0 : left + _TILE + reach]
            if around.all() or not around.any():
                continue
            # signed, positive inside: the line is as smooth as a line of that width can be
            depth = np.where(around, distance_transform_edt(around) - 0.5, 0.5 - distance_transform_edt(~around))
            depth = depth[top - y0 : top - y0 + _TILE, left - x0 : left - x0 + _TILE]
            tile = part[top : top + _TILE, left : left + _TILE]
            _blend(tile, _WHITE, 0.85 * np.clip(0.4 * stroke + 0.5 - abs(depth + 0.8 * stroke), 0, 1))
            _blend(tile, color, np.clip(0.5 * stroke + 0.5 - abs(depth), 0, 1))


def draw_name(canvas: np.ndarray, mask: np.ndarray, name: str, size: int, *, clicks: np.ndarray, reach: float) -> None:
    """Write a word where a mask (H, W) is widest, in letters `size` pixels high.

    It goes below the `clicks` (P, 2) it would cover, which reach so far around their places, or above them at the
    lower edge. An empty mask has no name, and an image that the word would cover half of shows none.
    """
    at = centre(mask)
    if at is None or not name:
        return
    letters, halo = _letters(name, size)
    high, wide = letters.shape
    height, width = canvas.shape[:2]
    if wide > width or 3 * high > height or 4 * high * wide > height * width:
        return
    x, y = max(0, min(at[0] - wide // 2, width - wide)), max(0, min(at[1] - high // 2, height - high))
    beside = clicks[(clicks[:, 0] > x - reach) & (clicks[:, 0] < x + wide + reach)]
    covered = beside[(beside[:, 1] > y - reach) & (beside[:, 1] < y + high + reach), 1]
    if len(covered):
        below = round(float(covered.max() + reach))
        y = below if below + high <= height else max(0, round(float(covered.min() - reach)) - high)
    part = canvas[y : y + high, x : x + wide]
    _blend(part, _DARK, 0.8 * halo)
    _blend(part, _WHITE, letters)


@lru_cache(256)
def _letters(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel a word covers, and a dark rim around it covers: (h, w) float32 from 0 to 1 each."""
    font, text = _font(text, size)
    rim = max(1, size // 10)
    x0, y0, x1, y1 = (int(np.ceil(side)) for side in font.getbbox(text))
    sheet = Image.new("L", (x1 - x0 + 2 * rim + 2, y1 - y0 + 2 * rim + 2))
    ImageDraw.Draw(sheet).text((rim + 1 - x0, rim + 1 - y0), text, fill=255, font=font)
    letters = np.asarray(sheet, dtype=np.float32) / 255
    return letters, maximum_filter(letters, 2 * rim + 1)


def _font(text: str, size: int) -> tuple[Any, str]:
    """A font that has all letters of a word, Pillow's or the system's, and the word: spelt plainly if none has."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() or "?" * len(text)
    try:
        own: Any = ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow before 10.1, or built without FreeType, has one small font
        return ImageFont.load_default(), plain
    if text.isascii():
        return own, text
    for name in (None, *_FONTS):
        try:
            font = own if name is None else ImageFont.truetype(name, size)
        except OSError:  # not on this system
            continue
        unknown = bytes(font.getmask("\U0010ffff"))
        if all(bytes(font.getmask(letter)) != unknown for letter in text):
            return font, text
    return own, plain


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


def draw_box(canvas: np.ndarray, box: np.ndarray, color: np.ndarray, unit: float) -> None:
    x0, y0, x1, y1 = box
    margin = 3 * unit + 1
    for part, x, y in _patches(canvas, x0 - margin, y0 - margin, x1 + margin, y1 + margin):
        across, along = abs(x - (x0 + x1) / 2) - (x1 - x0) / 2, abs(y - (y0 + y1) / 2) - (y1 - y0) / 2
        away = abs(np.maximum(across, along))
        _blend(part, _WHITE, 0.9 * np.clip(1.6 * unit + 0.5 - away, 0, 1))
        _blend(part, color, np.clip(0.8 * unit + 0.5 - away, 0, 1))


def draw_point(canvas: np.ndarray, point: np.ndarray, positive: bool, radius: float) -> None:
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
