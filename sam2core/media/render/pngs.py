"""Mask files and cut-outs: a PNG per frame, or per object and frame."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sam2core import storage
from sam2core.media.palettes import davis
from sam2core.media.render.writer import Writer, check_count, folder_name


def write_png(path: Path, pixels: np.ndarray, *, colors: np.ndarray | None = None) -> None:
    """Write pixels of 8 or 16 bits as a PNG, whole or not at all; its folder is made.

    Args:
        colors: (K, 3) uint8: a colour table, of which the pixels are the indices.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    picture = Image.fromarray(pixels)
    if colors is not None:
        picture.putpalette(colors.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.writing(path, force=True) as unfinished:
        picture.save(unfinished, format="PNG")


class PaletteWriter(Writer):
    """Mask files as DAVIS has them: ``FOLDER/NAME.png``, 8 bits with a colour table, a pixel's value is its object's
    number, 0 the background.

    Args:
        folder: made when the first frame is written.
        colors: (K, 3) uint8, the colours of objects 1 to K; those of DAVIS when not given.
    """

    def __init__(self, folder: str | os.PathLike[str], *, colors: np.ndarray | None = None) -> None:
        self.folder = Path(folder)
        self._colors = davis()
        if colors is not None:
            self._colors[1 : 1 + len(colors)] = colors[:255]

    def write(self, name: str, numbers: np.ndarray) -> None:
        """Write a frame of object numbers (H, W), integers from 0 to 255. Raises ValueError for others."""
        numbers = np.asarray(numbers)
        if numbers.ndim != 2 or numbers.dtype.kind not in "bui":
            raise ValueError(f"object numbers are a (H, W) array of integers, not {numbers.shape} of {numbers.dtype}")
        if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
            raise ValueError(f"8 bits hold the objects 1 to 255, not {numbers.max()}; MaskWriter has no such limit")
        write_png(self.folder / f"{name}.png", numbers.astype(np.uint8), colors=self._colors)


class MaskWriter(Writer):
    """Mask files per object: ``FOLDER/OBJECT/NAME.png``, 255 inside, 0 outside.

    Args:
        folder: made, with its folders, when the first frame is written.
        objects: what the objects are called, in the order of the masks.

    Raises:
        ValueError: a word that cannot name a folder.
    """

    def __init__(self, folder: str | os.PathLike[str], objects: Sequence[Hashable]) -> None:
        self.folders = [Path(folder) / folder_name(one) for one in objects]

    def write(self, name: str, masks: np.ndarray | Sequence[np.ndarray]) -> None:
        """Write a frame's masks (K, H, W) bool. Raises ValueError when there are not as many as objects."""
        check_count(masks, self.folders)
        for folder, mask in zip(self.folders, masks):
            write_png(folder / f"{name}.png", np.asarray(mask, dtype=bool).astype(np.uint8) * 255)


class CutoutWriter(MaskWriter):
    """Images of the objects alone, ``FOLDER/OBJECT/NAME.png``: of the frame's size, transparent outside the mask.

    Arguments and errors are those of `MaskWriter`.
    """

    def write(  # type: ignore[override]
        self, name: str, frame: np.ndarray, masks: np.ndarray | Sequence[np.ndarray]
    ) -> None:
        """Cut a frame (H, W, 3) uint8 by its masks (K, H, W). Raises ValueError when they do not fit together."""
        check_count(masks, self.folders)
        for folder, mask in zip(self.folders, masks):
            inside = np.asarray(mask, dtype=bool)
            if frame.dtype != np.uint8 or frame.shape != (*inside.shape, 3):
                raise ValueError(f"a mask of {inside.shape} cuts no frame of {frame.shape} of {frame.dtype}")
            alpha = inside[..., None].astype(np.uint8)
            write_png(folder / f"{name}.png", np.concatenate([frame * alpha, alpha * 255], axis=2))
