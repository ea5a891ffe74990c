"""What one frame may be given as, and what becomes of it: an array or a tensor with three channels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from sam2core.media.images import open_image, unpack_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""The files that a folder of frames may hold; others in it are left alone."""
Frame: TypeAlias = "np.ndarray | Tensor"


class Damage(Exception):
    """A frame cannot be had; says why. `FrameSource` says which."""


def as_frame(item: Any) -> Frame:
    """A picture of any kind that `read_image` takes, with three channels; its values are left as they are."""
    try:
        if is_text(item):
            item = open_image(Path(item))
        if isinstance(item, Image.Image):
            item = unpack_image(item)
    except ValueError as error:
        raise Damage(str(error)) from error
    if type(item).__module__.startswith("av.video"):
        item = rgb(item)
    if isinstance(item, np.ndarray):
        if item.ndim == 2:
            item = item[:, :, None]
        if item.ndim == 3 and item.shape[2] in (1, 3, 4) and item.size:
            return three(item)
        raise Damage(f"a frame as an array is (H, W) or (H, W, 1 | 3 | 4), not {item.shape}")
    if isinstance(item, Tensor):
        if item.ndim == 4 and item.shape[0] == 1:
            item = item[0]
        if item.ndim == 3 and item.shape[0] in (1, 3, 4) and item.numel():
            return three(item.detach())
        raise Damage(f"a frame as a tensor is (1 | 3 | 4, H, W), not {tuple(item.shape)}")
    raise Damage(f"a frame is a path, a PIL image, an array or a tensor, not {type(item).__name__}")


def rgb(picture: Any) -> np.ndarray:
    """A decoded picture as (H, W, 3) uint8, turned and mirrored the way it is to be seen, by right angles."""
    from av.sidedata.sidedata import SideDataContainer

    pixels = picture.to_ndarray(format="rgb24")
    # not `picture.side_data`: that keeps the picture, 12 MB at 4K, in a cycle until the garbage collector comes by
    matrix = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # its stub has no __init__
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def three(picture: Frame) -> Frame:
    """A copy of one picture with three channels: grey is repeated, an alpha channel dropped (as `read_image` does)."""
    if isinstance(picture, Tensor):
        return picture[:3].expand(3, -1, -1).clone() if picture.shape[0] != 3 else picture.clone()
    if picture.shape[2] == 1:
        return np.repeat(np.asarray(picture), 3, axis=2)
    return np.array(picture[:, :, :3], order="C", subok=False)


def is_text(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and isinstance(os.fspath(source), str)


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
