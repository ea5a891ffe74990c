"""What labelled data takes from files: pictures, maps of ids, frames, JSON; what cannot be read is named."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sam2core import storage
from sam2core.media.frames import FrameError, open_source
from sam2core.media.pictures import SUFFIXES
from sam2core.storage import FileError

PICTURES = SUFFIXES
LARGEST_DOCUMENT = 4_000_000_000  # bytes; LVIS and the largest of COCO's have 1.1 GB
CLIPS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".gif")


class DataError(ValueError):
    """Data that is not as it must be; the message names the file or folder."""


def read_picture(path: Path, mode: str = "RGB") -> np.ndarray:
    """An image file as (H, W, 3) uint8, or with "RGBA" as (H, W, 4), as displayed. Raises DataError that names it."""
    return _pixels(path, "image", mode)


def read_ids(path: Path) -> np.ndarray:
    """A PNG of ids (palette, grey levels of 8 or 16 bit) as (H, W). Raises DataError that names it."""
    ids = _pixels(path, "labels", None)
    if ids.ndim != 2:
        raise DataError(f"{path} is a colour picture {ids.shape}; labels have one channel, a palette or grey levels")
    return ids


def read_panoptic(path: Path) -> np.ndarray:
    """COCO's panoptic ids (H, W) int64 of a PNG: R + 256 G + 65536 B. Raises DataError that names it."""
    return read_picture(path).astype(np.int64) @ np.array([1, 256, 65536])


def _pixels(path: Path, what: str, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            shown = ImageOps.exif_transpose(picture)
            return np.array(shown if mode is None else shown.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a PNG's damage is a SyntaxError
        raise DataError(f"cannot read {what} {path}: {error}") from error


def read_palette(path: Path) -> np.ndarray | None:
    """The colours (256, 3) uint8 of a palette PNG, missing ones black; None for a grey one."""
    with Image.open(path) as picture:
        colors = picture.getpalette()
    if not colors:
        return None
    table = np.zeros((256, 3), dtype=np.uint8)
    table.reshape(-1)[: len(colors)] = colors
    return table


def displayed_size(path: Path) -> tuple[int, int]:
    """The (H, W) of a picture as displayed; only its head is read. Raises DataError that names it."""
    try:
        with Image.open(path) as picture:
            across = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (picture.width, picture.height) if across else (picture.height, picture.width)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: {error}") from error


def as_displayed(labels: np.ndarray, path: Path) -> np.ndarray | None:
    """A map (H, W) that was drawn on a picture as stored, turned as it is displayed; None when it fits neither way."""
    with Image.open(path) as picture:
        tag, stored = picture.getexif().get(0x0112, 1), (picture.height, picture.width)
    if labels.shape != stored or tag not in range(2, 9):
        return None
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: a[::-1].T,
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: a[:, ::-1].T,
    }
    return np.ascontiguousarray(turns[tag](labels))


def read_frames(media: Any, wanted: Sequence[int]) -> list[np.ndarray]:
    """Some frames (H, W, 3) uint8 of a clip, by number. Raises DataError when it is damaged or too short."""
    try:
        with open_source(media) as source:
            length = source.length
            if length is not None and wanted and max(wanted) >= length:
                raise DataError(f"{media} has {length} frames, asked for {sorted(wanted)}")
            return [_as_bytes(np.asarray(source[number])) for number in wanted]
    except (FrameError, ModuleNotFoundError) as error:
        raise DataError(f"cannot read video {media}: {error}") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"cannot read video {media}: {error}") from error


def _as_bytes(frame: np.ndarray) -> np.ndarray:
    if frame.dtype == np.uint8:
        return frame
    scale = 255 if np.issubdtype(frame.dtype, np.floating) else 255 / np.iinfo(frame.dtype).max
    return np.round(frame.astype(np.float64) * scale).astype(np.uint8)


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts 2 before 10."""
    return [(0, int(word)) if word.isdecimal() else (1, word) for word in re.split(r"(\d+)", name) if word]


def hidden(name: str) -> bool:
    """Whether a file or folder is one that systems leave behind, and no part of the data."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without what systems leave behind. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    return sorted((path for path in folder.iterdir() if not hidden(path.name)), key=lambda path: natural(path.name))


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder that end so, in natural order, without those that systems leave behind."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.lower().endswith(tuple(suffixes)) and path.is_file()]
    return sorted((path for path in found if not hidden(path.name)), key=lambda path: natural(path.name))


def files_below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The same anywhere below a folder, a folder at a time."""
    found: list[Path] = []
    for folder, below, _ in os.walk(root):
        below[:] = sorted((name for name in below if not hidden(name)), key=natural)
        found += files_in(Path(folder), suffixes)
    return found


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, in natural order; unfinished ones (.part) and hidden ones are left out."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.is_dir() and not hidden(path.name) and path.suffix != ".part"]
    return sorted(found, key=lambda path: natural(path.name))


def first_folder(root: Path, names: Sequence[str]) -> Path | None:
    """The first of some folders below `root` that is there."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def read_json(path: Path) -> Any:
    """A JSON file, with or without a byte order mark. Raises DataError that names it."""
    try:
        return storage.read_json(path, limit=LARGEST_DOCUMENT)
    except (OSError, FileError) as error:
        raise DataError(f"cannot read annotations {path}: {error}") from error


def inside(folder: Path, name: Any, origin: str | Path) -> Path:
    """The file that a text names, which must lie in the folder. Raises DataError that says which text."""
    try:
        return storage.inside(folder, name, str(origin))
    except FileError as error:
        raise DataError(str(error)) from error
