"""COCO's panoptic layout: PNGs of segment ids (R + 256 G + 65536 B) and a JSON file that says what each segment is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.footage import Footage, IdFootage
from sam2core.data.pictures import DataError, inside, read_json, read_panoptic, read_picture


@dataclass(frozen=True)
class PanopticPicture:
    """A photo with COCO's panoptic labels: a PNG of segment ids, and what COCO says of each segment."""

    image: Path
    labels: Path
    segments: tuple[dict[str, Any], ...]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The image (H, W, 3) uint8 and the segment ids (H, W) int64. Raises DataError that names the file."""
        image = read_picture(self.image)
        ids = read_panoptic(self.labels)
        if ids.shape != image.shape[:2]:
            raise DataError(f"{self.labels} is {ids.shape}, its image {self.image} is {image.shape[:2]}")
        return image, ids


class PanopticFootage(IdFootage):
    """A panoptic image; its objects are its segments, things and stuff. Crowds are none, and are not counted."""

    def __init__(self, picture: PanopticPicture, names: dict[int, str]) -> None:
        asked = [segment for segment in picture.segments if not segment["iscrowd"]]
        classes = {segment["id"]: names.get(segment.get("category_id", -1), "") for segment in asked}
        super().__init__(picture.image.name, (picture.image,), (picture.labels,), classes=classes)
        self.source = str(picture.image)
        self.asked = [segment["id"] for segment in asked]
        self.crowds = [segment["id"] for segment in picture.segments if segment["iscrowd"]]

    def read_map(self, frame: int) -> np.ndarray:
        ids = read_panoptic(self.maps[frame])
        ids[~np.isin(ids, self.asked)] = 0
        return ids

    def ignored(self, frame: int) -> np.ndarray | None:
        if not self.crowds:
            return None
        where = np.isin(read_panoptic(self.maps[frame]), self.crowds)
        return self.fitted(where, frame, self.maps[frame]) if where.any() else None


def recognise(root: Path) -> bool:
    return (root / "panoptic_segmentation").is_dir()


def read(root: Path, *, split: str = "val", licences: Sequence[str] = ()) -> list[Footage]:
    """The images of one split in the order of their names; see `coco_pictures`. Raises DataError."""
    pictures, _ = coco_pictures(root, split, licences)
    listing = read_json(_index(root, split))
    names = {category["id"]: category.get("name", "") for category in listing.get("categories", ())}
    return [PanopticFootage(one, names) for one in sorted(pictures, key=lambda picture: picture.image.name)]


def _index(root: Path, split: str) -> Path:
    return root / "panoptic_segmentation" / "annotations" / f"panoptic_{split}2017.json"


def coco_pictures(
    root: Path, split: str, licences: Sequence[str] = ()
) -> tuple[list[PanopticPicture], dict[int, bool]]:
    """The images of COCO's panoptic layout in the order of the JSON, and of each category whether it is of things.

    Looks for ``images/{split}2017`` and ``panoptic_segmentation/annotations/panoptic_{split}2017{.json,/}``. Raises
    DataError for another folder. licences: only images under these, by the names that the JSON gives them.
    """
    index = _index(root, split)
    if not index.exists():
        raise DataError(f"no panoptic annotations at {index}")
    listing = read_json(index)
    things = {category["id"]: bool(category["isthing"]) for category in listing.get("categories", ())}
    known = {licence["id"]: licence["name"] for licence in listing.get("licenses", ())}
    unknown = sorted(set(licences) - set(known.values()))
    if unknown:
        raise DataError(f"{index} knows no licence {unknown[0]!r}; it has {', '.join(map(repr, known.values()))}")
    chosen = [image for image in listing["images"] if not licences or known.get(image.get("license")) in licences]
    names = {image["id"]: image["file_name"] for image in chosen}
    pictures = [
        PanopticPicture(
            inside(root / "images" / f"{split}2017", names[entry["image_id"]], index),
            inside(index.with_suffix(""), entry["file_name"], index),
            tuple(entry["segments_info"]),
        )
        for entry in listing["annotations"]
        if entry["image_id"] in names
    ]
    return pictures, things
