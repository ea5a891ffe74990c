"""Folders of videos with masks as DAVIS, MOSE, YouTube-VOS and SA-V have them, read a file at a time.

Where they may lie is said in `ops.folders`. Masks are one palette PNG a frame (a pixel's value is its object) or, as
SA-V has them, a folder per object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from sam2core.data.folders import IMAGE_FOLDERS, MASK_FOLDERS, PICTURES, video_places
from sam2core.data.pictures import DataError, read_ids


def read_palette(path: Path) -> np.ndarray | None:
    """The colours (256, 3) uint8 of a palette PNG, missing ones black; None for a grey one."""
    with Image.open(path) as picture:
        colors = picture.getpalette()
    if not colors:
        return None
    table = np.zeros((256, 3), dtype=np.uint8)
    table.reshape(-1)[: len(colors)] = colors
    return table


@dataclass(frozen=True)
class MaskFolder:
    """The masks of one video: ``FRAME.png`` with all objects, or ``OBJECT/FRAME.png``. Raises DataError.

    It is of the second kind when it holds anything but PNGs, as SA-V's evaluator has it; hidden files do not count.
    """

    path: Path

    @cached_property
    def _entries(self) -> list[Path]:
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}")
        found = sorted(entry for entry in self.path.iterdir() if not entry.name.startswith("."))
        if not found:
            raise DataError(f"the folder {self.path} is empty")
        return found

    @cached_property
    def per_object(self) -> bool:
        return not all(entry.suffix == ".png" for entry in self._entries)

    @cached_property
    def objects(self) -> dict[str, list[str]]:
        """Object folder -> names of its frames, in order; one entry '' when all objects share files."""
        if not self.per_object:
            return {"": [entry.stem for entry in self._entries]}
        for entry in self._entries:
            if not entry.is_dir():
                raise DataError(f"{entry} stands beside folders: masks are all PNGs, or all a folder per object")
        return {entry.name: sorted(file.stem for file in entry.glob("*.png")) for entry in self._entries}

    @cached_property
    def frames(self) -> list[str]:
        """The names of all frames that have a mask of any object."""
        return sorted({name for names in self.objects.values() for name in names}, key=natural)

    def file(self, frame: str, folder: str = "") -> Path:
        return self.path / folder / f"{frame}.png"

    def read(self, frame: str) -> dict[int, np.ndarray]:
        """Object number -> mask (H, W) of those that have one on this frame; 255, DAVIS's void, is no object.

        Folders per object are numbered by their names, and give empty masks too. Raises DataError.
        """
        if not self.per_object:
            if not self.file(frame).exists():
                return {}
            ids = read_ids(self.file(frame))
            return {int(number): ids == number for number in np.unique(ids) if number not in (0, 255)}
        return {
            self.number(folder): read_ids(self.file(frame, folder)) > 0
            for folder in self.objects
            if self.file(frame, folder).exists()
        }

    def number(self, folder: str) -> int:
        if not folder.isdecimal():
            raise DataError(f"{self.path / folder} must be called by its object's number, such as 000")
        return int(folder)


@dataclass(frozen=True)
class VideoFolder:
    """A video as pictures, and its masks."""

    name: str
    images: Path
    masks: MaskFolder

    @cached_property
    def frames(self) -> list[Path]:
        """The pictures in order. Raises DataError when there is none."""
        found = [path for path in self.images.iterdir() if path.suffix.lower() in PICTURES and path.name[0] != "."]
        if not found:
            raise DataError(f"{self.images} holds no picture ({', '.join(PICTURES)})")
        return sorted(found, key=lambda path: natural(path.stem))


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts 2 before 10."""
    return [(0, int(word)) if word.isdecimal() else (1, word) for word in re.split(r"(\d+)", name) if word]


def mask_folders(root: Path, names: Iterable[str] | None = None) -> dict[str, MaskFolder]:
    """Video name -> its masks, in order, of a data set, of its ``Annotations``, or of a folder of results.

    names: only these, all of which must be there. Raises DataError.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    found = {name: MaskFolder(path) for name, path in video_places(root, MASK_FOLDERS, bare=True).items()}
    return {name: found[name] for name in _chosen(root, found, names)}


def video_folders(root: Path, names: Iterable[str] | None = None) -> list[VideoFolder]:
    """The videos of a data set in one of the shapes above; `names`: only these. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    images = video_places(root, IMAGE_FOLDERS)
    if not images:
        raise DataError(f"{root} holds neither {' nor '.join(IMAGE_FOLDERS)}, nor do the folders in it")
    masks = video_places(root, MASK_FOLDERS)
    for name in _chosen(root, images, names):
        if name not in masks:
            raise DataError(f"the video {images[name]} has no folder of masks")
    return [VideoFolder(name, images[name], MaskFolder(masks[name])) for name in _chosen(root, images, names)]


def _chosen(root: Path, found: Iterable[str], names: Iterable[str] | None) -> list[str]:
    known = list(found)
    if not known:
        raise DataError(f"{root} holds no folder of a video")
    if names is None:
        return known
    wanted = list(dict.fromkeys(names))
    absent = [name for name in wanted if name not in known]
    if absent:
        raise DataError(f"{root} has no video {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}")
    return wanted


def listed(root: Path, subset: str | None) -> list[str] | None:
    """The names in ``ImageSets/*/SUBSET.txt``, DAVIS's way; None where a data set has no lists and none is asked for.

    Raises DataError when there are lists and none was chosen, or the chosen one is not there: half of a data set is
    never taken for all of it.
    """
    lists = {path.stem: path for path in sorted(root.glob("ImageSets/**/*.txt"))}
    years = {path.parent for path in lists.values()}
    if (root / "ImageSets" / "2017").is_dir() and len(years) > 1:  # DAVIS 2016's lists lie beside those of 2017
        lists = {path.stem: path for path in sorted((root / "ImageSets" / "2017").glob("*.txt"))}
    if subset is None:
        if len(lists) > 1:
            raise DataError(f"{root} has several lists of videos: choose one of {', '.join(lists)}")
        return None if not lists else next(iter(lists.values())).read_text().split()
    if subset not in lists:
        raise DataError(f"{root} has no list ImageSets/**/{subset}.txt; it has {', '.join(lists) or 'none'}")
    return lists[subset].read_text().split()
