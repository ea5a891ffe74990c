"""A frame with its masks, as the page shows it: highlighted, outlined, before a dim, blurred or plain background."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation

from sam2core.media.render import FileWriter, overlay

EFFECTS = ("highlight", "contour", "dim", "blur", "remove")
PLAIN = 240
"""The grey of a removed background."""
FRINGE = 6
"""Pixels around a mask that keep their colours in a transparent video: chroma has half the resolution."""


def draw(effect: str, frame: np.ndarray, masks: np.ndarray, colors: np.ndarray, names: list[str]) -> np.ndarray:
    """Return a frame (H, W, 3) uint8 with masks (K, H, W) bool in one of `EFFECTS`.

    As on the page, frames without a mask stay as they are in all but "remove".
    """
    assert effect in EFFECTS
    if effect == "highlight":
        return overlay(frame, masks, colors=colors, names=names)
    if effect == "contour":
        return overlay(frame, masks, colors=colors, opacity=0, contour=max(2.0, min(frame.shape[:2]) / 120))
    inside = np.any(masks, axis=0)
    if effect == "remove":
        behind = np.full_like(frame, PLAIN)
    elif not inside.any():
        return frame
    elif effect == "dim":
        behind = (frame * 0.25).astype(np.uint8)
    else:
        behind = blurred(frame)
    return np.where(inside[..., None], frame, behind)


def blurred(frame: np.ndarray) -> np.ndarray:
    """A frame seen by way of a small one, as strong for all sizes."""
    height, width = frame.shape[:2]
    picture = Image.fromarray(frame)
    small = picture.resize((max(2, width // 22), max(2, height // 22)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


class TransparentWriter(FileWriter):
    """A WebM with a transparent background: VP9 with an alpha plane, which browsers and editors play.

    Sides of odd length get one more row or column, transparent. The file has its name only once it is whole.

    Args:
        path: the file.
        size: (H, W) of every frame.
        fps: frames per second.
    """

    def __init__(self, path: Path, size: tuple[int, int], *, fps: float) -> None:
        import av

        self.path = path
        self.size = size
        self.count = 0
        self._av = av
        self._unfinished = path.with_name(path.name + ".part")
        self._container = av.open(str(self._unfinished), "w", format="webm")
        stream: Any = self._container.add_stream("libvpx-vp9", rate=Fraction(fps).limit_denominator(10_000))
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuva420p"
        stream.bit_rate = 0
        # alternate reference frames and an alpha plane exclude each other
        stream.options = {"crf": "22", "deadline": "realtime", "cpu-used": "6", "row-mt": "1", "auto-alt-ref": "0"}
        self._stream = stream

    def write(self, frame: np.ndarray, inside: np.ndarray) -> None:
        """Add a frame (H, W, 3) uint8 of which `inside` (H, W) bool is seen."""
        assert frame.shape[:2] == inside.shape == self.size
        height, width = self.size
        near = binary_dilation(inside, iterations=FRINGE) if inside.any() else inside
        pixels = np.zeros((height + height % 2, width + width % 2, 4), dtype=np.uint8)
        pixels[:height, :width, :3] = frame * near[..., None]  # what lies behind is not in the file
        pixels[:height, :width, 3] = inside * np.uint8(255)
        picture = self._av.VideoFrame.from_ndarray(pixels, format="rgba")
        picture.pts, picture.time_base = self.count, 1 / self._stream.codec_context.framerate
        self._container.mux(self._stream.encode(picture))
        self.count += 1
