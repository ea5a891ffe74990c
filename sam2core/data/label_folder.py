"""Label folders: ``images/NAME.*`` with ``labels/NAME.png``, a map of class or object ids an image.

Several people's labels of one image lie beside each other as ``labels/NAME_ANNOTATOR.png``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.footage import Footage, IdFootage, Void
from sam2core.data.pictures import PICTURES, DataError, files_in
from sam2core.data.writing import Written, copy_pictures, write_ids

LABELS = (".png", ".tif", ".tiff", ".bmp")
OPTIONS = "ignore: a value that is no object, none, or auto (255 beside lower ids in 8 bits)"


class LabelPicture(IdFootage):
    """An image with the maps that people made of it; the first counts, `by` gives another's."""

    @property
    def annotators(self) -> int:
        return len(self.maps)

    def by(self, annotator: int) -> IdFootage:
        """The same image with the map of one of its annotators."""
        return LabelPicture(self.name, self.media, self.maps[annotator : annotator + 1], void=self.void)


def recognise(root: Path) -> bool:
    return (root / "images").is_dir() and bool(files_in(root / "labels", LABELS))


def pairs(root: Path) -> tuple[list[tuple[Path, list[Path]]], list[Path]]:
    """Each image with its labels, in the order of their names as text, and the images that have none."""
    if not (root / "images").is_dir() or not (root / "labels").is_dir():
        raise DataError(f"{root} must hold the folders images/ and labels/")
    images = sorted(
        files_in(root / "images", PICTURES)
    )  # as text: what is held out does not depend on numbers in names
    if not images:
        raise DataError(f"{root / 'images'} holds no image ({', '.join(PICTURES)})")
    labels = sorted(files_in(root / "labels", LABELS))
    whole: dict[str, list[Path]] = {}
    people: dict[str, list[Path]] = {}
    for path in labels:
        whole.setdefault(path.stem, []).append(path)
        people.setdefault(path.stem.rpartition("_")[0], []).append(path)
    found, lonely = [], []
    for path in images:
        own = whole.get(path.stem) or people.get(path.stem) or []
        if own:
            found.append((path, own))
        else:
            lonely.append(path)
    return found, lonely


def read(root: Path, *, ignore: int | str | None = "auto") -> list[Footage]:
    """The images in order. Raises DataError for another folder, and for images without labels."""
    found, lonely = pairs(root)
    if lonely:
        more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
        raise DataError(f"{lonely[0]} has no labels/{lonely[0].stem}.png{more}")
    return of_pairs(found, ignore)


def of_pairs(found: Iterable[tuple[Path, list[Path]]], ignore: int | str | None = "auto") -> list[Footage]:
    """The images of some `pairs`; which value is void is decided over all of them."""
    kept = list(found)
    void = Void(ignore, [path for _, own in kept for path in own])
    return [LabelPicture(path.name, (path,), own, range(1), void=void) for path, own in kept]


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write images and maps of 8 bits, or of 16 where numbers ask for it; 255 is void where it can be told."""
    for item in footage:
        for frame, stem in enumerate(copy_pictures(root / "images", item)):
            write_ids(root / "labels" / f"{stem}.png", _with_void(item, frame, written))
        written.lose("class names", len(item.classes))
        written.lose_identity(item)


def _with_void(item: Footage, frame: int, written: Written) -> np.ndarray:
    ids = written.map_of(item, frame)
    ignored: Any = item.ignored(frame)
    if ignored is None or not ignored.any():
        return ids
    if ids.max(initial=0) in range(1, 255):
        ids = ids.astype(np.uint8)
        ids[ignored] = 255
        return ids
    written.lose("pixels that are not counted", int(ignored.sum()))
    return ids
