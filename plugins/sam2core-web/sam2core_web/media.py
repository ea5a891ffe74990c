"""What may be opened: images and videos, known by their content, measured before they are decoded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import DecompressionBombError

from sam2core.media.containers import missing_bytes
from sam2core.media.decoding import coded_size
from sam2core.media.files import PictureFile
from sam2core.media.frames import FrameSource, open_source
from sam2core.media.images import file_pixels
from sam2core.media.listing import listed
from sam2core_web.limits import Limits

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
CLIPS = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"}


class Refused(ValueError):
    """What was sent cannot be opened; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int = 415) -> None:
        super().__init__(message)
        self.status = status


def kind(path: Path) -> str:
    """``"image"`` or ``"clip"``, by a file's first bytes. Raises Refused for anything else."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:3] == b"\xff\xd8\xff" or head[:8] == b"\x89PNG\r\n\x1a\n" or head[:2] == b"BM":
        return "image"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" or head[:4] in (b"II*\0", b"MM\0*"):
        return "image"
    if head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3" or head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "clip"
    raise Refused("this is no image (JPEG, PNG, WebP, BMP, TIFF) and no video (MP4, MOV, WebM, MKV, AVI)")


def read_picture(path: Path, limits: Limits) -> np.ndarray:
    """An image file's own values, as `sam2core.media.images.read_pixels` gives them. Raises Refused."""
    try:
        with PictureFile(path, name="the image") as file:
            height, width = file.size()
            if width * height > limits.picture_pixels:
                raise Refused(
                    f"the image has {width} x {height} pixels; at most {limits.picture_pixels:,} are taken", 413
                )
            return file_pixels(file)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(str(error), 413 if isinstance(error.__cause__, DecompressionBombError) else 422) from error


def open_clip(path: Path, limits: Limits) -> FrameSource:
    """A video's frames. Raises Refused when it is damaged, cut off, too long or too large."""
    if missing := missing_bytes(path):
        raise Refused(f"the video is cut off: {missing:,} bytes are missing at its end", 422)
    try:
        height, width = coded_size(path, "the video")
        if not 0 < width * height <= limits.frame_pixels:
            raise Refused(
                f"the video's frames have {width} x {height} pixels; at most {limits.frame_pixels:,} are taken", 413
            )
        source = open_source(path)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(f"the video cannot be read: {str(error).replace(str(path), 'it')}", 422) from error
    length = source.length
    if length is None or length > limits.frames:
        source.close()
        raise Refused(f"the video has {length or 'too many'} frames; at most {limits.frames} are taken", 413)
    return source


def inside(folder: Path, name: str) -> Path:
    """A file of a folder, or of those in it, by its relative name. Raises Refused (404) for any other place."""
    if "\0" in name:
        raise Refused("there is no such file", 404)
    root = folder.resolve()
    try:
        path = (root / name).resolve()  # follows links: one that leads out of the folder leads nowhere
        found = path.is_relative_to(root) and path.is_file()
    except (OSError, UnicodeError):  # no name of a file: too long, or no text
        found = False
    if not found:
        raise Refused("there is no such file", 404)
    return path


def plain(name: str) -> str:
    """A file's name without the folders that came with it; what is shown of an upload, and never where it lies."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(letter for letter in last if letter.isprintable()).strip()
    return shown if shown.strip(".") else "upload"


def listing(folder: Path, limit: int) -> list[dict[str, Any]]:
    """The images and videos of a folder and of those in it, by relative name, in natural order, `limit` at most."""
    found: list[dict[str, Any]] = []
    root = folder.resolve()
    for path in listed(folder, tuple(PICTURES | CLIPS), deep=True):
        suffix = path.suffix.lower()
        if not path.resolve().is_relative_to(root):  # `inside` would not give it
            continue
        found.append({"name": path.relative_to(folder).as_posix(), "kind": "image" if suffix in PICTURES else "clip"})
        if len(found) == limit:
            break
    return found
