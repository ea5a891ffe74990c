"""What labelled data takes from files: images, maps of ids, frames, JSON; what cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from sam2core import storage
from sam2core.media.files import PictureFile
from sam2core.media.frames import open_source
from sam2core.media.images import as_bytes, image_count, image_size, read_rgb
from sam2core.media.labels import align_labels, panoptic_ids, read_labels
from sam2core.media.listing import SUFFIXES, hidden, listed, natural
from sam2core.storage import FileError

__all__ = ["hidden", "natural"]

PICTURES = SUFFIXES
LARGEST_DOCUMENT = 4_000_000_000  # bytes; the largest files of LVIS and COCO have 1.1 GB
CLIPS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".gif")
Found = TypeVar("Found")


class DataError(ValueError):
    """Data that is not as it must be; the message names the file or folder."""


def read_picture(path: Path, page: int = 0) -> np.ndarray:
    """An image file, or one page of it, as (H, W, 3) uint8, as displayed. Raises DataError that names it."""
    return _naming(f"cannot read image {path}", lambda: read_rgb(path, page))


def page_count(path: Path) -> int:
    """How many images a file holds. Raises DataError that names it."""
    return _naming(f"cannot read image {path}", lambda: image_count(path))


def read_transparent(path: Path) -> np.ndarray:
    """An image file as (H, W, 4) uint8, as displayed. Raises DataError that names it."""
    return _naming(f"cannot read image {path}", lambda: np.array(_whole(path).convert("RGBA")))


def read_ids(path: Path, frame: int = 0) -> np.ndarray:
    """A map of ids (palette, grey levels of up to 32 bits) as (H, W) integers. Raises DataError that names it."""
    ids = _naming(f"cannot read labels {path}", lambda: read_labels(path, frame))
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def read_panoptic(path: Path) -> np.ndarray:
    """COCO's panoptic ids (H, W) int64 of a PNG: R + 256 G + 65536 B. Raises DataError that names it."""
    return panoptic_ids(read_picture(path))


def read_palette(path: Path) -> np.ndarray | None:
    """The colours (256, 3) uint8 of a palette PNG, missing ones black; None for a grey one."""
    colors = _naming(f"cannot read labels {path}", lambda: _whole(path).getpalette())
    if not colors:
        return None
    table = np.zeros((256, 3), dtype=np.uint8)
    table.reshape(-1)[: len(colors)] = colors
    return table


def _whole(path: Path) -> Image.Image:
    with PictureFile(path) as file:
        picture = file.picture(0)
    if not isinstance(picture, Image.Image):
        raise ValueError(f"{path} holds {picture.dtype}, no colours of 8 bits")
    return picture


def displayed_size(path: Path) -> tuple[int, int]:
    """The (H, W) of an image as displayed; only its head is read. Raises DataError that names it."""
    return _naming(f"cannot read image {path}", lambda: image_size(path))


def as_displayed(labels: np.ndarray, path: Path) -> np.ndarray | None:
    """A map (H, W) that was drawn on an image as stored, turned as it is displayed; None when it fits neither way."""
    try:
        return align_labels(labels, path)
    except ValueError:
        return None


def _naming(what: str, read: Callable[[], Found]) -> Found:
    try:
        return read()
    except ValueError as error:
        raise DataError(f"{what}: {error}") from error


def read_frames(media: Any, wanted: Sequence[int]) -> list[np.ndarray]:
    """Some frames (H, W, 3) uint8 of a video, by number. Raises DataError when it is damaged or too short."""
    try:
        with open_source(media) as source:
            length = source.length
            if length is not None and wanted and max(wanted) >= length:
                raise DataError(f"{media} has {length} frames, asked for {sorted(wanted)}")
            return [as_bytes(np.asarray(source[number])) for number in wanted]
    except DataError:
        raise
    except (ValueError, ModuleNotFoundError) as error:
        raise DataError(f"cannot read video {media}: {error}") from error


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without what systems leave behind. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    return listed(folder)


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder that end so, in natural order; none where there is no such folder."""
    return listed(folder, tuple(suffixes)) if folder.is_dir() else []


def files_below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The same anywhere below a folder."""
    return listed(root, tuple(suffixes), deep=True) if root.is_dir() else []


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, in natural order; unfinished ones (.part) are left out."""
    return [path for path in listed(root) if path.is_dir() and path.suffix != ".part"] if root.is_dir() else []


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
