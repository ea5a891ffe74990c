"""Small images of sessions, for lists: the first frame, with what is known of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sam2core.media.images import read_rgb
from sam2core.media.render import overlay
from sam2core.ops import rle

SIDE = 480
"""Pixels of the longer side, at most."""


def cover(frame: np.ndarray) -> bytes:
    """A frame (H, W, 3) uint8 as a small JPEG."""
    image = Image.fromarray(frame)
    image.thumbnail((SIDE, SIDE))
    return _jpeg(image)


def drawn(cover: bytes, masks: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    """A cover with masks over it: a colour, as #rrggbb, and run lengths for each."""
    if not masks:
        return cover
    picture = read_rgb(io.BytesIO(cover))
    size = (picture.shape[1], picture.shape[0])
    small = [np.array(Image.fromarray(rle.decode(one)).resize(size, Image.Resampling.NEAREST)) for _, one in masks]
    colors = np.array([list(bytes.fromhex(color[1:])) for color, _ in masks], dtype=np.uint8)
    return _jpeg(Image.fromarray(overlay(picture, np.stack(small), colors=colors)))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
