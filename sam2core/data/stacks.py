"""TIFF stacks with label stacks, as napari and ImageJ write them: ``images/NAME.tif`` with ``labels/NAME.tif``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2core.data.footage import Footage, IdFootage, Void
from sam2core.data.pictures import DataError, files_in, page_count, read_ids, read_picture
from sam2core.data.writing import Written, write_ids_stack

TIFF = (".tif", ".tiff")


class Pages:
    """The pages of an image file as frames (H, W, 3) uint8, read one by one."""

    def __init__(self, path: Path) -> None:
        self.path, self._count = path, page_count(path)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, page: Any) -> np.ndarray:
        if not 0 <= page < self._count:
            raise IndexError(page)
        return read_picture(self.path, page)

    def __str__(self) -> str:
        return str(self.path)


class StackClip(IdFootage):
    """A stack of pages with a map of ids a page; an object keeps its number from page to page."""

    def __init__(self, name: str, image: Path, labels: Path, ignore: int | None) -> None:
        pages = Pages(image)
        count = page_count(labels)
        if count != len(pages):
            raise DataError(f"{labels} has {count} pages, its image {image} has {len(pages)}")
        super().__init__(name, pages, [labels] * count, void=Void(ignore, ()), source=str(labels))

    def read_map(self, frame: int) -> np.ndarray:
        return read_ids(self.maps[frame], frame)


def recognise(root: Path) -> bool:
    labels = files_in(root / "labels", TIFF)
    return (root / "images").is_dir() and bool(labels) and page_count(labels[0]) > 1


def read(root: Path, *, ignore: int | None = None) -> list[Footage]:
    """The stacks in order. Raises DataError for pages that do not go together.

    ignore: a value that is not counted; without it every value but 0 is an object, for there may be hundreds.
    """
    images = {path.stem: path for path in files_in(root / "images", TIFF)}
    labels = files_in(root / "labels", TIFF)
    if not labels:
        raise DataError(f"{root / 'labels'} holds no TIFF")
    for path in labels:
        if path.stem not in images:
            raise DataError(f"{root / 'images'} has no stack {path.stem}.tif")
    return [StackClip(path.stem, images[path.stem], path, ignore) for path in labels]


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write a stack of the labelled frames, as RGB of 8 bits, and one of maps."""
    for item in footage:
        frames = [Image.fromarray(picture) for picture in item.pictures(range(item.length))]
        (root / "images").mkdir(parents=True, exist_ok=True)
        frames[0].save(root / "images" / f"{item.name}.tif", save_all=True, append_images=frames[1:])
        maps = [written.map_of(item, frame).astype(np.uint16) for frame in range(item.length)]
        write_ids_stack(root / "labels" / f"{item.name}.tif", maps)
        written.lose("class names", len(item.classes))
        written.lose("names of frames, which are counted from 0", 0 if item.names == _counted(item) else item.length)
        for frame in range(item.length):
            ignored = item.ignored(frame)
            written.lose("pixels that are not counted", 0 if ignored is None else int(ignored.sum()))


def _counted(item: Footage) -> list[str]:
    return [f"{number:05d}" for number in range(item.length)]
