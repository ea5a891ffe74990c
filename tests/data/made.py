"""Small labelled data of every format, made from the same images and objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from sam2core.data.converting import convert
from sam2core.data.formats import FORMATS, open_data
from sam2core.ops import rle

SIZE = (96, 128)


def picture(number: int = 0) -> np.ndarray:
    """An image (96, 128, 3) with a bright square that moves with its number."""
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[:, :, 1] += np.arange(SIZE[1], dtype=np.uint8)
    image[20:60, 10 + number : 50 + number] = (220, 60, 60)
    return image


def ids(number: int = 0) -> np.ndarray:
    """Object 1, with a hole; object 2 in two pieces; neither touches the other."""
    found = np.zeros(SIZE, np.uint8)
    found[20:60, 10 + number : 50 + number] = 1
    found[35:45, 25 + number : 35 + number] = 0
    found[10:40, 80:120] = found[50:90, 70:110] = 2
    return found


def label_folder(root: Path, count: int = 3, *, void: bool = False) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        labels = ids(number)
        if void:
            labels[60:64, 10 + number : 50 + number] = 255
        Image.fromarray(picture(number)).save(root / "images" / f"p{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"p{number}.png")
    return root


def davis(root: Path, count: int = 3, *, video: str = "clip") -> Path:
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / video).mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(root / "JPEGImages" / video / f"{number:05d}.png")
        Image.fromarray(ids(number)).save(root / "Annotations" / video / f"{number:05d}.png")
    return root


def sav(root: Path, count: int = 3) -> Path:
    (root / "clip").mkdir(parents=True)
    for number in range(4 * (count - 1) + 1):
        Image.fromarray(picture(number // 4)).save(root / "clip" / f"{number:05d}.png")
    masklet = [[rle.encode(ids(number) == value) for value in (1, 2)] for number in range(count)]
    (root / "clip_manual.json").write_text(json.dumps({"video_id": "clip", "masklet": masklet}))
    return root


def panoptic(root: Path, count: int = 3) -> Path:
    annotations = root / "panoptic_segmentation" / "annotations"
    images = root / "images" / "val2017"
    (annotations / "panoptic_val2017").mkdir(parents=True)
    images.mkdir(parents=True)
    listing: dict = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "thing", "isthing": 1}]}
    for number in range(count):
        Image.fromarray(picture(number)).save(images / f"p{number}.png")
        labels = np.zeros((*SIZE, 3), np.uint8)
        labels[..., 0] = ids(number)
        Image.fromarray(labels).save(annotations / "panoptic_val2017" / f"p{number}.png")
        segments = [{"id": value, "category_id": 7, "iscrowd": 0} for value in (1, 2)]
        listing["images"].append({"id": number, "file_name": f"p{number}.png"})
        listing["annotations"].append({"image_id": number, "file_name": f"p{number}.png", "segments_info": segments})
    (annotations / "panoptic_val2017.json").write_text(json.dumps(listing))
    return root


def sa1b(root: Path, count: int = 3) -> Path:
    root.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(root / f"p{number}.jpg", quality=95)
        masks = [{"segmentation": rle.encode(ids(number) == value), "area": 9} for value in (1, 2)]
        (root / f"p{number}.json").write_text(json.dumps({"image": {}, "annotations": masks}))
    return root


BY_HAND = {"label_folder": label_folder, "davis": davis, "sav": sav, "coco_panoptic": panoptic, "sa1b": sa1b}


def data_of(name: str, root: Path) -> Path:
    """A folder in a format; those that are not made by hand are written from a label folder or a video."""
    if name in BY_HAND:
        return BY_HAND[name](root)
    source = root.with_name(f"{root.name}-source")
    data = open_data(davis(source) if FORMATS[name].clips else label_folder(source))
    convert(data, root, name)
    return root
