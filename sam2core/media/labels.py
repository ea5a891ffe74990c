"""Images whose values say which object a pixel belongs to: label maps, and masks that a person drew."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sam2core.media.files import PictureFile, PictureSource, turned
from sam2core.media.images import CLEAR, image_size
from sam2core.media.palettes import davis


def read_labels(source: PictureSource, frame: int = 0) -> np.ndarray:
    """The ids of a label image, turned as displayed: (H, W) integers.

    A palette gives its indices, grey levels of 1 to 32 bits their values; an alpha channel is dropped; of a colour
    image whose channels are equal the grey level counts.

    Args:
        frame: which of the file's images.

    Raises:
        ValueError: damaged data, colours, values that are no integers. It names the file.
    """
    with PictureFile(source) as file:
        values = _values(file, frame)
        if values.ndim == 2:
            return values
        if (values == values[..., :1]).all():
            return np.ascontiguousarray(values[..., 0])
        raise ValueError(f"{file.name} is a colour image; labels have one channel: a palette or grey levels")


def panoptic_ids(colors: np.ndarray) -> np.ndarray:
    """COCO's panoptic ids of colours (..., 3) uint8: R + 256 G + 65536 B."""
    return colors.astype(np.int64) @ np.array([1, 256, 65536])


def align_labels(labels: np.ndarray, picture: PictureSource) -> np.ndarray:
    """Labels (H, W) of an image file as the image is displayed.

    Labels that were drawn on the stored pixels, by a tool that knows no EXIF, are turned with the image where their
    size tells. Raises ValueError, naming the file, for labels of neither size.
    """
    shown, stored = image_size(picture), image_size(picture, stored=True)
    if labels.shape == shown:
        return labels
    with PictureFile(picture) as file:
        if labels.shape == stored:
            return turned(labels, file.orientation())
        raise ValueError(f"labels of {labels.shape[1]}x{labels.shape[0]} lie on {file.name} of {shown[1]}x{shown[0]}")


def _values(file: PictureFile, frame: int) -> np.ndarray:
    """A label image's own values: (H, W) integers, or colours (H, W, 3) uint8."""
    picture = file.picture(frame)
    if not isinstance(picture, Image.Image):
        if picture.dtype != np.uint16 or picture.ndim != 3:
            raise ValueError(f"{file.name} holds {picture.dtype} in {picture.ndim} dimensions, no labels")
        return _deep_values(file, picture[..., :3])
    if picture.mode == "F":
        values = np.asarray(picture)
        if not np.array_equal(values, np.rint(values)):
            raise ValueError(f"{file.name} holds fractions; labels are integers")
        return values.astype(np.int64)
    if picture.mode in ("P", "L", "1") or picture.mode.startswith("I"):
        return np.array(picture)
    if picture.mode in ("LA", "PA", "La"):
        return np.ascontiguousarray(np.asarray(picture)[..., 0])
    return np.array(picture.convert("RGB"))


def _deep_values(file: PictureFile, colors: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) of 16 bits as labels: grey levels (H, W), or the colours of 8 bits that they stand for."""
    if (colors == colors[..., :1]).all():
        return np.ascontiguousarray(colors[..., 0])
    if (colors % 257).any():  # 255 of 8 bits is 65535 of 16
        raise ValueError(
            f"{file.name} holds colours of 16 bits; labels are colours of 8 bits, grey levels or a palette"
        )
    return (colors // 257).astype(np.uint8)


# a mask that was drawn ----------------------------------------------------------------------------------------------

SOFT = 16
"""Grey levels from which on a mask is one object with soft edges, and no map of labels."""


@dataclass(frozen=True)
class DrawnMask:
    """What an image says of objects: the numbers of their pixels, 0 for none, and what the numbers are called."""

    ids: np.ndarray
    names: Mapping[int, str]

    def choose(self, wanted: str | int | None) -> np.ndarray:
        """The pixels (H, W) bool of one object, which need not be named when it is the only one. Raises ValueError."""
        held = ", ".join(list(self.names.values())[:20]) + (", ..." if len(self.names) > 20 else "")
        if not self.names:
            raise ValueError("is empty: it holds only 0")
        if wanted is None:
            if len(self.names) > 1:
                raise ValueError(f"holds {len(self.names)} objects: {held}; choose one with @ID behind the name")
            (number,) = self.names
        else:
            said = str(wanted).lower()
            chosen = [number for number, name in self.names.items() if said in (str(number), *name.lower().split())]
            if not chosen:
                raise ValueError(f"holds no object {wanted}; it holds {held}")
            (number,) = chosen
        inside = self.ids == number
        if inside.all():
            raise ValueError(f"covers the whole image: every pixel is {self.names[number]}")
        return inside


def split_choice(text: str) -> tuple[str, str | None]:
    """``PNG@ID`` as a path and an id; a file that has such a name is a path, with no id."""
    path, at, chosen = text.rpartition("@")
    if not at or not path or not chosen or os.sep in chosen or Path(text).exists():
        return text, None
    return path, chosen


def read_mask(source: PictureSource, choose: str | int | None = None, *, frame: int = 0) -> np.ndarray:
    """A mask that was drawn, (H, W) bool, turned as displayed.

    The object is what a palette's index, a grey level of any depth, a colour or, where it differs, the transparency
    sets apart from 0. Grey levels with soft edges, and files of a lossy kind, are taken at half of full.

    Args:
        choose: one of several objects: a palette's index, a grey level, a colour as ``#rrggbb`` or by its number in
            DAVIS's table.

    Raises:
        ValueError: an empty or a full mask, several objects and no choice, or one that is not there; it names the file
            and what was found in it.
    """
    with PictureFile(source) as file:
        drawn = _drawn(file, frame)
        try:
            return drawn.choose(choose)
        except ValueError as error:
            raise ValueError(f"the mask {file.name} {error}") from error


def read_objects(source: PictureSource) -> dict[int, np.ndarray]:
    """The masks (H, W) bool that were drawn of all objects, by number; a lone one in black and white has number 1.

    Numbers are those that `read_mask` chooses by. Raises ValueError for an empty file, which it names.
    """
    with PictureFile(source) as file:
        drawn = _drawn(file, 0)
        if not drawn.names:
            raise ValueError(f"the mask {file.name} is empty: it holds only 0")
    white = [*drawn.names] == [255]
    return {1 if white else number: drawn.ids == number for number in drawn.names}


def _drawn(file: PictureFile, frame: int) -> DrawnMask:
    picture = file.picture(frame)
    alpha = _alpha(picture)
    if alpha is not None:
        return _numbered((alpha > np.iinfo(alpha.dtype).max // 2).astype(np.uint8), "opaque")
    if isinstance(picture, Image.Image):
        if file.lossy:
            return _numbered((np.asarray(picture.convert("L")) > 127).astype(np.uint8), "bright")
        if picture.mode == "F" and not np.array_equal(values := np.asarray(picture), np.rint(values)):
            return _numbered((values > 0.5).astype(np.uint8), "bright")
    values = _values(file, frame)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim == 3:
        return _coloured(file, values)
    full = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 65535
    indexed = isinstance(picture, Image.Image) and picture.mode == "P"
    if not indexed and _is_soft(values, full):
        return _numbered((values > full // 2).astype(np.uint8), "bright")
    return _numbered(values)


def _alpha(picture: Image.Image | np.ndarray) -> np.ndarray | None:
    """The transparency of an image, where it differs from pixel to pixel."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 4:
            return None
        alpha = picture[..., 3]
    elif picture.mode in CLEAR:
        alpha = np.asarray(picture.getchannel("A" if "A" in picture.getbands() else "a"))
    else:
        return None
    return alpha if alpha.min() != alpha.max() else None


def _is_soft(values: np.ndarray, full: int) -> bool:
    """Whether grey levels are one object with soft edges, not labels: those between are many, or nowhere flat."""
    levels = np.unique(values)
    if levels[-1] != full or not ((levels > 0) & (levels < full)).any():
        return False
    if levels.size > SOFT:
        return True
    height, width = values.shape
    inner = values[1:-1, 1:-1]
    flat = (inner > 0) & (inner < full)
    for down, along in itertools.product((0, 1, 2), repeat=2):
        flat &= values[down : height - 2 + down, along : width - 2 + along] == inner
    return not flat.any()


def _numbered(ids: np.ndarray, name: str | None = None) -> DrawnMask:
    numbers = [int(number) for number in np.unique(ids) if number]
    return DrawnMask(ids, {number: str(number) if name is None else name for number in numbers})


def _coloured(file: PictureFile, colors: np.ndarray) -> DrawnMask:
    """Every colour but black as an object, numbered by DAVIS's table where it has them all."""
    codes = panoptic_ids(colors)
    found = [int(code) for code in np.unique(codes) if code]
    if len(found) > 255:
        raise ValueError(f"{file.name} has {len(found)} colours: it is no mask but a photo, or has soft edges")
    table = panoptic_ids(davis()).tolist()
    in_table = all(code in table for code in found)
    ids = np.zeros(codes.shape, dtype=np.int64)
    names = {}
    for place, code in enumerate(found, 1):
        number = table.index(code) if in_table else place
        ids[codes == code] = number
        color = f"#{code & 255:02x}{code >> 8 & 255:02x}{code >> 16:02x}"
        names[number] = f"{number} {color}" if in_table else color
    return DrawnMask(ids, names)
