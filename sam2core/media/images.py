"""A picture of any kind as RGB values: files, PIL images, arrays and tensors, turned as they are to be seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"


ROUNDING = 1 / 512
"""How far floating values of a picture may lie outside [0, 1]: resizing leaves some of white at 1.0000002."""


def read_image(image: ImageLike) -> Tensor:
    """Any picture as RGB values (3, H, W), fp32 in [0, 1].

    Accepts a path, a PIL image, an array (H, W) or (H, W, 1 | 3 | 4), or a tensor (1 | 3 | 4, H, W); values are uint8,
    uint16, or floating in [0, 1] up to rounding. Grey becomes three equal channels, an alpha channel is dropped, a
    file's EXIF rotation is applied. Raises ValueError for anything else, for an empty picture and for values that are
    not finite.
    """
    if isinstance(image, str | os.PathLike):
        image = open_image(Path(image))
    if isinstance(image, Image.Image):
        image = unpack_image(image)
    if isinstance(image, np.ndarray):
        values = _from_array(image)
    elif isinstance(image, Tensor):
        values = _from_tensor(image)
    else:
        kind = f"{type(image).__module__}.{type(image).__qualname__}"
        raise ValueError(f"an image is a path, a PIL image, an array or a tensor, not {kind}")
    return values


def open_image(path: Path) -> Image.Image:
    """A picture file, turned as its EXIF tag says. Raises ValueError when it is missing or cannot be read."""
    if not path.is_file():
        raise ValueError(f"there is no image file {str(path)!r}")
    try:
        return ImageOps.exif_transpose(Image.open(path))
    except UnidentifiedImageError:
        raise ValueError(f"{str(path)!r} is not an image that Pillow can read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} could not be read: {error}") from error


def unpack_image(image: Image.Image) -> np.ndarray:
    """A PIL image as an array: RGB bytes, 16-bit greys or floats. Raises ValueError when empty or out of range."""
    if image.width == 0 or image.height == 0:
        raise ValueError(f"the image is empty: {image.width}x{image.height} pixels")
    if image.mode.startswith("I"):  # 16-bit greys; Pillow holds some of them in 32 bits
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"integer images must lie in 0..65535; this one has {values.min()}..{values.max()}")
        return values.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    return np.array(image.convert("RGB"))


def _from_array(image: np.ndarray) -> Tensor:
    image = image.astype(image.dtype.newbyteorder("="), copy=False)  # torch knows this machine's order alone
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        hint = "; move the channels last" if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ""
        raise ValueError(f"an image array is (H, W) or (H, W, 1 | 3 | 4), not {image.shape}{hint}")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"image values are uint8, uint16 or floating in [0, 1], not {image.dtype}")
    if image.dtype == np.uint16:  # a type that torch only half supports
        image = image.astype(np.float32) / 65535
    image = np.require(image, requirements=["C", "W"])  # torch warns of arrays that cannot be written to
    return _from_tensor(torch.from_numpy(image).permute(2, 0, 1))


def _from_tensor(image: Tensor) -> Tensor:
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        hint = "; move the channels first" if image.ndim == 3 and image.shape[2] in (1, 3, 4) else ""
        raise ValueError(f"an image tensor is (1 | 3 | 4, H, W), not {tuple(image.shape)}{hint}")
    if image.numel() == 0:
        raise ValueError(f"the image is empty: {image.shape[2]}x{image.shape[1]} pixels")
    if image.dtype == torch.uint8:
        values = image.float() / 255
    elif image.dtype == torch.uint16:
        values = image.float() / 65535
    elif image.is_floating_point():
        values = image.float()
        low, high = values.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ValueError("the image has values that are not finite (NaN or infinity)")
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(
                f"floating images lie in [0, 1]; this one has {low.item():.6g}..{high.item():.6g}"
                + (" (divide by 255?)" if high > 2 and low >= 0 else "")
            )
        if low < 0 or high > 1:
            values = values.clamp(0, 1)
    else:
        kind = str(image.dtype).removeprefix("torch.")
        raise ValueError(f"image values are uint8, uint16 or floating in [0, 1], not {kind}")
    values = values[:3]
    return values.expand(3, -1, -1) if values.shape[0] == 1 else values
