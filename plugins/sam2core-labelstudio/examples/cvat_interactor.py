"""sam2core as an interactor for CVAT's annotation functions: a click or a box in, CVAT's mask out.

CVAT's agents call `detect` with an image and prompts (cvat-sdk, `cvat_sdk.auto_annotation`). Here is what that takes:
the image is opened once for all clicks on it, and a mask becomes CVAT's points: runs of what lies in the mask's box,
row by row, outside first, then the box itself, its last corner inclusive.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sam2core_labelstudio import Client, Mask, Session
from sam2core_labelstudio.brush import counts, pixels

Point = tuple[float, float]


def encode(mask: Mask) -> list[int]:
    """A mask as CVAT stores it; empty for an empty one."""
    box = mask.box()
    if box is None:
        return []
    x0, y0, x1, y1 = box
    return [*counts(pixels(mask)[y0:y1, x0:x1].ravel()), x0, y0, x1 - 1, y1 - 1]


class Interactor:
    """Answers clicks on images; the image that was clicked on last stays open."""

    def __init__(self, client: Client | None = None) -> None:
        self.client = client or Client()
        self._session: Session | None = None
        self._name = ""

    def detect(
        self,
        picture: Any,
        positive: Sequence[Point] = (),
        negative: Sequence[Point] = (),
        box: Sequence[float] | None = None,
    ) -> list[int]:
        """CVAT's mask for what was said on an image (PIL): points on the object and beside it, or a box around it."""
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "PNG")
        self._open(buffer.getvalue())
        assert self._session is not None
        points, labels = [*positive, *negative], [1] * len(positive) + [0] * len(negative)
        said: dict[str, Any] = {"points": points, "labels": labels} if points else {}
        if box is not None:
            said["box"] = box
        return encode(self._session.prompt(1, **said)[1])

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _open(self, data: bytes) -> None:
        name = hashlib.sha256(data).hexdigest()
        if self._session is None or name != self._name:
            self.close()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "picture.png"
                path.write_bytes(data)
                self._session = self.client.open(path)
            self._name = name


def decode(points: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """CVAT's mask as (H, W) bool: the way back, for a check."""
    inside = np.zeros(size, dtype=bool)
    if points:
        *runs, x0, y0, x1, y1 = points
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        inside[y0 : y1 + 1, x0 : x1 + 1] = values.reshape(y1 + 1 - y0, x1 + 1 - x0)
    return inside
