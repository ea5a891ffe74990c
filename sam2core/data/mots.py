"""MOTS PNGs: ``instances/SEQUENCE/FRAME.png`` of 16 bits, class * 1000 + object; 10000 is not counted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sam2core.data.footage import Footage, IdFootage, Void
from sam2core.data.pictures import PICTURES, DataError, files_in, first_folder, folders_in
from sam2core.data.writing import Written, copy_pictures, write_ids

IGNORED = 10000
CLASSES = {1: "car", 2: "pedestrian"}
IMAGE_FOLDERS = ("training/image_02", "train/images", "image_02", "images", "train")
LABEL_FOLDERS = ("instances", "train/instances", "training/instances")


def recognise(root: Path) -> bool:
    labels = first_folder(root, LABEL_FOLDERS)
    return labels is not None and any(files_in(folder, (".png",)) for folder in folders_in(labels))


def read(root: Path, *, images: str = "") -> list[Footage]:
    """The sequences in order. Raises DataError.

    images: the folder of a folder of frames per sequence; without it where KITTI and MOTSChallenge have it.
    """
    labels = first_folder(root, LABEL_FOLDERS)
    if labels is None:
        raise DataError(f"{root} holds no folder {' or '.join(LABEL_FOLDERS)}")
    found: list[Footage] = []
    for folder in folders_in(labels):
        places = [images] if images else list(IMAGE_FOLDERS)
        shown = first_folder(root, [f"{place}/{folder.name}" for place in places])
        if shown is None:
            raise DataError(f"{root} has no frames of the sequence {folder.name} in {' or '.join(places)}")
        if (shown / "img1").is_dir():
            shown = shown / "img1"
        media = tuple(files_in(shown, PICTURES))
        maps = {path.stem: path for path in files_in(folder, (".png",))}
        labelled = [number for number, path in enumerate(media) if path.stem in maps]
        if len(labelled) < len(maps):
            missing = sorted(set(maps) - {path.stem for path in media})
            raise DataError(f"{folder} has labels of {missing[0]!r}, but {shown} has no such frame")
        if labelled:
            own = [maps[media[number].stem] for number in labelled]
            void = Void(IGNORED, ())
            found.append(MotsSequence(folder.name, media, own, labelled, void=void, source=str(folder)))
    if not found:
        raise DataError(f"{labels} holds no PNG in a folder per sequence")
    return found


class MotsSequence(IdFootage):
    """A sequence whose objects' numbers say their class."""

    def __init__(self, name: str, media: tuple[Path, ...], maps: list[Path], labelled: list[int], **more: object):
        super().__init__(name, media, maps, labelled, **more)  # type: ignore[arg-type]
        self.classes = _Classes()


class _Classes(dict[int, str]):
    """The class of an object is the thousand of its number."""

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number // 1000 in CLASSES

    def __missing__(self, number: int) -> str:
        return CLASSES[number // 1000]

    def get(self, number: int, default: str = "") -> str:  # type: ignore[override]
        return CLASSES.get(number // 1000, default)


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write frames and maps; objects without one of the classes are of class 2."""
    kinds = {name: number for number, name in CLASSES.items()}
    for item in footage:
        copy_pictures(root / "images" / item.name, item, every=True)
        numbers = written.numbers(item, 65535)
        coded = {}
        for number, new in numbers.items():
            own = item.classes.get(number, "")
            if own and own not in kinds:
                written.lose(f"names of class {own!r}, which MOTS has not")
            coded[new] = new if number in _Classes() else kinds.get(own, 2) * 1000 + new % 1000
        if len(set(coded.values())) < len(coded):
            raise DataError(f"{item.source} has more than 1000 objects of a class, which MOTS does not hold")
        for frame, name in enumerate(item.names):
            ids = written.map_of(item, frame).astype(np.uint16)
            values = np.zeros(ids.shape, np.uint16)
            for number, code in coded.items():
                values[ids == number] = code
            ignored = item.ignored(frame)
            if ignored is not None:
                values[ignored & (values == 0)] = IGNORED
            write_ids(root / "instances" / item.name / f"{name}.png", values)
