"""An image of any kind as RGB values: files, PIL images, arrays and tensors, turned as they are to be seen.

`read_image` gives values for a model, `read_pixels` the image's own numbers, `read_rgb` bytes for people and for
training; all three see the same image.
"""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam2core.media.files import LARGEST, PictureFile, PictureSource, is_address

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"
Frame: TypeAlias = "np.ndarray | Tensor"

CLEAR = ("RGBA", "LA", "PA", "RGBa", "La")
"""Pillow's modes that have an alpha channel."""
ROUNDING = 1 / 512
"""How far floating values of an image may lie outside [0, 1]: resizing leaves some of white at 1.0000002."""


class Damage(Exception):
    """A frame cannot be had; says why. `FrameSource` says which."""


def read_image(image: ImageLike) -> Tensor:
    """Any image as RGB values (3, H, W), fp32 in [0, 1]: `scaled` of what `read_values` makes of it."""
    return scaled(read_values(image))


def scaled(values: Tensor) -> Tensor:
    """What `read_values` gives as RGB values (3, H, W), fp32 in [0, 1], on the same device."""
    if values.dtype == torch.uint8:
        values = (values.float() / 255)[:3]
    return values.expand(3, -1, -1) if values.shape[0] == 1 else values


def read_values(image: ImageLike) -> Tensor:
    """Any image as values: uint8 (1 | 3 | 4, H, W) where it has bytes, otherwise fp32 (1 | 3, H, W) in [0, 1].

    Bytes are a quarter of what `read_image` gives, for whoever takes them to another device first.

    Accepts a path, an address (http, https), a PIL image, an array (H, W) or (H, W, 1 | 3 | 4), or a tensor
    (1 | 3 | 4, H, W); values are uint8,
    uint16, or floating in [0, 1] up to rounding. Grey becomes three equal channels, an alpha channel is dropped, a
    file's EXIF rotation is applied. Raises ValueError for anything else, for an empty image and for values that are
    not finite; it names the file.
    """
    if isinstance(image, str | os.PathLike):
        image = read_pixels(image)
    if isinstance(image, Image.Image):
        image = unpack_image(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    kind = f"{type(image).__module__}.{type(image).__qualname__}"
    raise ValueError(f"an image is a path, a PIL image, an array or a tensor, not {kind}")


def at_hand(image: Any) -> Any:
    """An image as it was given, but one at an address of the web, which is fetched: its own values."""
    return read_pixels(image) if is_address(image) else image


def read_pixels(
    source: PictureSource, frame: int = 0, *, name: str | None = None, largest: int | None = LARGEST
) -> np.ndarray:
    """An image file's own values, turned as displayed.

    Args:
        source: a path, an address (http, https) or a file of bytes, which `name` is then the name of in messages.
        frame: which of the file's images.
        largest: pixels that it may have; None for any number.

    Returns:
        (H, W, 3) uint8 for everything of 8 bits or fewer, (H, W) uint16 or floating for greys of more, and (H, W, C)
        for PNGs and TIFFs with such values in C channels (TIFFs through tifffile).

    Raises:
        ValueError: no such file or image, damaged data, values that are not finite or not in [0, 1]. It names the
            file.
    """
    with PictureFile(source, name=name) as file:
        return file_pixels(file, frame, largest=largest)


def file_pixels(file: PictureFile, frame: int = 0, *, largest: int | None = LARGEST) -> np.ndarray:
    """`read_pixels` of a file that is open."""
    picture = file.picture(frame, largest=largest)
    try:
        pixels = unpack_image(picture) if isinstance(picture, Image.Image) else picture
        if pixels.dtype != np.uint8:
            _from_array(pixels)  # its values are checked here, where the file is known
    except ValueError as error:
        raise ValueError(f"{file.name} could not be read: {error}") from error
    return pixels


def read_rgb(source: PictureSource, frame: int = 0, *, name: str | None = None) -> np.ndarray:
    """An image file as (H, W, 3) uint8: what `read_image` gives, rounded. Arguments and errors are `read_pixels`'."""
    return as_bytes(read_pixels(source, frame, name=name))


def read_rgba(source: PictureSource, frame: int = 0, *, name: str | None = None) -> np.ndarray:
    """An image file as (H, W, 4) uint8, opaque where it says nothing. Arguments and errors are `read_pixels`'."""
    with PictureFile(source, name=name) as file:
        colors = as_bytes(file_pixels(file, frame))
        picture = file.picture(frame)
        alpha = np.full(colors.shape[:2], 255, np.uint8)
        if isinstance(picture, Image.Image) and (picture.mode in CLEAR or "transparency" in picture.info):
            alpha = np.array(picture.convert("RGBA"))[..., 3]
        elif isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 4:
            alpha = as_bytes(picture[..., 3])[..., 0]
    return np.dstack([colors, alpha])


def as_bytes(frame: Frame) -> np.ndarray:
    """An array or a tensor that `read_image` takes as RGB, (H, W, 3) uint8."""
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    values = read_image(frame)
    return np.ascontiguousarray((values * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def image_size(source: PictureSource, *, stored: bool = False) -> tuple[int, int]:
    """(H, W) of an image file as displayed, or as `stored`, without decoding it. Raises ValueError, naming it."""
    with PictureFile(source) as file:
        return file.size(stored=stored)


def image_count(source: PictureSource) -> int:
    """How many images a file holds. Raises ValueError that names it."""
    with PictureFile(source) as file:
        return file.count


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
        return image
    if image.dtype == torch.uint16:
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
    return values[:3]


def as_frame(item: Any) -> Frame:
    """An image of any kind that `read_image` takes, with three channels; its values are left as they are."""
    try:
        if is_text(item):
            item = read_pixels(item)
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
    """A decoded image as (H, W, 3) uint8, turned and mirrored the way it is to be seen, by right angles."""
    from av.sidedata.sidedata import SideDataContainer

    pixels = picture.to_ndarray(format="rgb24")
    # not `picture.side_data`: that keeps the image, 12 MB at 4K, in a cycle until the garbage collector comes by
    matrix = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # its stub has no __init__
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def three(picture: Frame) -> Frame:
    """A copy of one image with three channels: grey is repeated, an alpha channel dropped (as `read_image` does)."""
    if isinstance(picture, Tensor):
        return picture[:3].expand(3, -1, -1).clone() if picture.shape[0] != 3 else picture.clone()
    if picture.shape[2] == 1:
        return np.repeat(np.asarray(picture), 3, axis=2)
    return np.array(picture[:, :, :3], order="C", subok=False)


def is_text(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and isinstance(os.fspath(source), str)
