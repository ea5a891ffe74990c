"""Pictures and maps of ids from files, for training and for evaluation; what cannot be read is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class DataError(ValueError):
    """Data that is not as it must be; the message names the file or folder."""


def read_picture(path: Path, mode: str = "RGB") -> np.ndarray:
    """An image file as (H, W, 3) uint8, or with "RGBA" as (H, W, 4). Raises DataError that names it."""
    return _pixels(path, "image", mode)


def read_ids(path: Path) -> np.ndarray:
    """A PNG of ids (palette, grey levels of 8 or 16 bit) as (H, W). Raises DataError that names it."""
    ids = _pixels(path, "labels", None)
    if ids.ndim != 2:
        raise DataError(f"{path} is a colour picture {ids.shape}; labels have one channel, a palette or grey levels")
    return ids


def _pixels(path: Path, what: str, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.array(picture if mode is None else picture.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a PNG's damage is a SyntaxError
        raise DataError(f"cannot read {what} {path}: {error}") from error


def read_json(path: Path) -> Any:
    """A JSON file. Raises DataError that names it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read annotations {path}: {error}") from error


@dataclass(frozen=True)
class PanopticPicture:
    """A photograph with COCO's panoptic labels: a PNG of segment ids, and what COCO says of each segment."""

    image: Path
    labels: Path
    segments: tuple[dict[str, Any], ...]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture (H, W, 3) uint8 and the segment ids (H, W) int64. Raises DataError that names the file."""
        image = read_picture(self.image)
        ids = read_picture(self.labels).astype(np.int64) @ np.array([1, 256, 65536])
        if ids.shape != image.shape[:2]:
            raise DataError(f"{self.labels} is {ids.shape}, its image {self.image} is {image.shape[:2]}")
        return image, ids


def coco_pictures(
    root: Path, split: str, licences: Sequence[str] = ()
) -> tuple[list[PanopticPicture], dict[int, bool]]:
    """The pictures of COCO's panoptic layout in the order of the JSON, and of each category whether it is of things.

    Looks for ``images/{split}2017`` and ``panoptic_segmentation/annotations/panoptic_{split}2017{.json,/}``. Raises
    DataError for another folder. licences: only pictures under these, by the names that the JSON gives them.
    """
    annotations = root / "panoptic_segmentation" / "annotations"
    index = annotations / f"panoptic_{split}2017.json"
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
            root / "images" / f"{split}2017" / names[entry["image_id"]],
            annotations / f"panoptic_{split}2017" / entry["file_name"],
            tuple(entry["segments_info"]),
        )
        for entry in listing["annotations"]
        if entry["image_id"] in names
    ]
    return pictures, things
