"""Pascal VOC: ``JPEGImages/NAME.jpg`` with ``SegmentationObject/NAME.png``; 255 is the border that is not counted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sam2core.data.footage import VOID, Footage, IdFootage, Void
from sam2core.data.pictures import PICTURES, DataError, files_in, read_ids
from sam2core.data.writing import Written, copy_pictures, write_ids

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of 2012, from 1 on."""


class VocPicture(IdFootage):
    """An image with a map of its objects and, where there is one, a map of their classes."""

    def __init__(self, image: Path, labels: Path, classes: Path) -> None:
        super().__init__(image.name, (image,), (labels,), void=Void(VOID, ()))
        self.source, self.class_map = str(image), classes
        self._named: dict[int, str] | None = None

    @property
    def classes(self) -> dict[int, str]:
        if self._named is None:
            self._named = self._read_classes() if self.class_map.exists() else {}
        return self._named

    @classes.setter
    def classes(self, value: dict[int, str]) -> None:
        self._named = value or None

    def _read_classes(self) -> dict[int, str]:
        ids, kinds = self.read_map(0), read_ids(self.class_map)
        if ids.shape != kinds.shape:
            raise DataError(f"{self.class_map} is {kinds.shape}, {self.maps[0]} is {ids.shape}")
        found = {}
        for number in np.unique(ids):
            values = kinds[(ids == number) & (kinds > 0) & (kinds <= len(CLASSES))]
            if number not in (0, VOID) and values.size:
                found[int(number)] = CLASSES[int(np.bincount(values).argmax()) - 1]
        return found


def recognise(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and (root / "SegmentationObject").is_dir()


def read(root: Path, *, split: str = "") -> list[Footage]:
    """The images that have labels, in order. Raises DataError.

    split: those of the list ``ImageSets/Segmentation/SPLIT.txt``; all without.
    """
    labels = {path.stem: path for path in files_in(root / "SegmentationObject", (".png",))}
    images = {path.stem: path for path in files_in(root / "JPEGImages", PICTURES)}
    names = list(labels)
    if split:
        place = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not place.is_file():
            known = ", ".join(path.stem for path in files_in(place.parent, (".txt",)))
            raise DataError(f"{root} has no list {place.relative_to(root)}; it has {known or 'none'}")
        names = place.read_text(encoding="utf-8").split()
    for name in names:
        if name not in labels or name not in images:
            what = "SegmentationObject" if name not in labels else "JPEGImages"
            raise DataError(f"{root / what} has no image {name}")
    if not names:
        raise DataError(f"{root / 'SegmentationObject'} holds no PNG")
    return [VocPicture(images[name], labels[name], root / "SegmentationClass" / f"{name}.png") for name in names]


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write images, maps of objects and, where all classes are VOC's, maps of classes."""
    for item in footage:
        for frame, stem in enumerate(copy_pictures(root / "JPEGImages", item)):
            ids = written.map_of(item, frame, largest=VOID - 1)
            numbers = written.numbers(item, VOID - 1)
            kinds = np.zeros_like(ids)
            for number, new in numbers.items():
                name = item.classes.get(number, "")
                if name in CLASSES:
                    kinds[ids == new] = CLASSES.index(name) + 1
                elif name:
                    written.lose(f"names of class {name!r}, which VOC has not")
            ignored = item.ignored(frame)
            if ignored is not None:
                ids[ignored & (ids == 0)] = VOID
                kinds[ignored & (kinds == 0)] = VOID
            write_ids(root / "SegmentationObject" / f"{stem}.png", ids)
            write_ids(root / "SegmentationClass" / f"{stem}.png", kinds)
        written.lose_identity(item)
