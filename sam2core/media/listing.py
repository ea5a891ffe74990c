"""Which files of a folder count, and their order: one rule for frames, images, labels and videos."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""The images that a folder may hold; other files in it are left alone."""
_LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"})


def natural(path: str | os.PathLike[str]) -> tuple[list[int | str], str]:
    """A key that sorts names by the value of the numbers in them: 2 comes before 10.

    Names that differ in case or in leading zeros alone are told apart by their text, so that the order never depends
    on the disk's.
    """
    text = os.fspath(path)
    return [int(part) if at % 2 else part.lower() for at, part in enumerate(re.split(r"(\d+)", text))], text


def hidden(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is none of the user's: ``.DS_Store``, ``._photo.jpg``, ``Thumbs.db``, ``__MACOSX``."""
    name = Path(path).name
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def listed(folder: str | os.PathLike[str], suffixes: Sequence[str] | None = None, *, deep: bool = False) -> list[Path]:
    """What lies in a folder in natural order, without what is hidden.

    Args:
        suffixes: lower-case endings such as ``".png"``: only files with one of them. Otherwise folders are listed too.
        deep: also what lies in the folders below it.

    Raises:
        OSError: there is no such folder.
    """
    found = [
        entry
        for entry in _entries(Path(folder), deep)
        if suffixes is None or (entry.suffix.lower() in suffixes and entry.is_file())
    ]
    return sorted(found, key=natural)


def pictures_in(folder: str | os.PathLike[str], *, deep: bool = False) -> list[Path]:
    """The images of a folder in natural order. Raises OSError when there is no such folder."""
    return listed(folder, SUFFIXES, deep=deep)


def is_picture(path: Path) -> bool:
    """Whether a file is an image by its name."""
    return path.suffix.lower() in SUFFIXES and not hidden(path) and path.is_file()


def _entries(folder: Path, deep: bool) -> Iterator[Path]:
    for entry in folder.iterdir():
        if hidden(entry):
            continue
        yield entry
        if deep and entry.is_dir() and not entry.is_symlink():
            yield from _entries(entry, deep)
