"""COCO instances: a JSON file of images and of polygons or run lengths on them, written and read.

Crowds are no objects; what they cover beside objects is not counted. Polygons lie on the image as displayed, unless
the file's ``height`` and ``width`` are those of the stored one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.documents import entries, entry, head, mentions
from sam2core.data.footage import Footage, Shape, ShapeFootage, naming, usable_rings
from sam2core.data.pictures import DataError, files_in, first_folder, folders_in, inside, read_json
from sam2core.data.writing import Written, copy_pictures, write_document
from sam2core.ops import rle
from sam2core.ops.polygons import extent, trace


def recognise(root: Path) -> bool:
    return bool(documents(root))


def documents(root: Path) -> list[Path]:
    """The annotation files of a data set, wherever COCO's, Roboflow's and other tools put them."""
    places = [root, root / "annotations", *folders_in(root)]
    found = [path for place in dict.fromkeys(places) for path in files_in(place, (".json",))]
    return [path for path in found if _is_coco(head(path))]


def _is_coco(text: str) -> bool:
    start = text.lstrip()
    if not start.startswith("{") or mentions(text, "segments_info"):
        return False
    return mentions(text, "images") or mentions(text, "annotations", "image_id")


def read(root: Path, *, annotations: str = "", images: str = "", crowds: bool = False) -> list[Footage]:
    """The annotated images in the order of the file.

    annotations: the JSON file below `root`, which must be said where there are several; images: the folder of the
    images; without it where they usually lie. crowds: take crowds as objects. Raises DataError that names the file
    and the key.
    """
    origin = _document(root, annotations)
    tree = read_json(origin)
    pictures = entries(tree, "images", origin)
    if tree.get("annotations", 0) is None:
        raise DataError(f"{origin}: 'annotations' is null, so no image has any")
    names = {
        str(entry(one, "id", f"{origin}: categories[{place}]")): str(one.get("name", one["id"]))
        for place, one in enumerate(tree.get("categories") or ())
    }
    shapes, left_out = _shapes(entries(tree, "annotations", origin), names, crowds, origin)
    below = _picture_folder(root, origin, images, pictures)
    found: list[Footage] = []
    for place, picture in enumerate(pictures):
        where = f"{origin}: images[{place}]"
        own, ignored = shapes.pop(str(entry(picture, "id", where)), ((), ()))
        if not own:
            continue
        name = entry(picture, "file_name", where)
        path = inside(below, name, origin)
        if not path.exists():
            raise DataError(f"{origin} names {name}, but there is no {path}")
        found.append(
            ShapeFootage(
                name,
                (path,),
                (own,),
                drawn_on=_size(picture, where),
                crowds=(ignored,) if ignored else (),
                origin=path,
                classes={shape.number: shape.label for shape in own if shape.label},
            )
        )
    if shapes:
        left_out.append(f"{origin}: {len(shapes)} images that annotations speak of are not among its images")
    if not found:
        because = f" ({'; '.join(left_out)})" if left_out else ""
        raise DataError(f"{origin} holds no annotated image{because}")
    found[0].notes += left_out
    return found


def _document(root: Path, annotations: str) -> Path:
    if annotations:
        return root / annotations
    found = documents(root)
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise DataError(
            f"{root} has several annotation files: choose one with annotations=; there are {names}"
            if found
            else f"{root} has no annotation file of COCO's kind"
        )
    return found[0]


def _shapes(
    annotated: list[dict[str, Any]], names: dict[str, str], crowds: bool, origin: Path
) -> tuple[dict[str, tuple[list[Shape], list[Shape]]], list[str]]:
    """By image, its objects and its crowds, and sentences about what has no mask."""
    found: dict[str, tuple[list[Shape], list[Shape]]] = {}
    boxes = degenerate = 0
    for place, one in enumerate(annotated):
        where = f"{origin}: annotations[{place}]"
        coded = one.get("segmentation")
        picture = str(entry(one, "image_id", where))
        if not coded:
            boxes += 1
            continue
        if isinstance(coded, list):
            if isinstance(coded[0], int | float):
                coded = [coded]
            with naming(where):
                coded, flat = usable_rings(coded)
            degenerate += flat
            if not coded:
                continue
        objects, ignored = found.setdefault(picture, ([], []))
        label = names.get(str(one.get("category_id")), "")
        if one.get("iscrowd") and not crowds:
            ignored.append(Shape(0, coded, label))
        else:
            objects.append(Shape(len(objects) + 1, coded, label))
    notes = []
    if boxes:
        notes.append(f"{origin}: {boxes} annotations without a mask were left out")
    if degenerate:
        notes.append(f"{origin}: {degenerate} polygons without an inside were left out")
    return found, notes


def _size(picture: dict[str, Any], where: str) -> tuple[int, int] | None:
    height, width = picture.get("height"), picture.get("width")
    if height is None or width is None:
        return None  # the file itself knows
    try:
        return int(height), int(width)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: 'height' and 'width' are {height!r} and {width!r}, no numbers") from error


def _picture_folder(root: Path, origin: Path, images: str, pictures: list[dict[str, Any]]) -> Path:
    """Where the files that the document names lie."""
    if images:
        if first_folder(root, (images,)) is None:
            raise DataError(f"there is no folder {root / images}")
        return root / images
    split = origin.stem.rpartition("_")[2]
    places = [
        origin.parent,
        root,
        *(root / name for name in ("images", f"images/{split}", split, f"images/{origin.stem}")),
    ]
    named = next((one["file_name"] for one in pictures if isinstance(one.get("file_name"), str)), "")
    if not named:
        return root  # the image without a name is told when its turn comes
    for place in places:
        if inside(place, named, origin).is_file():
            return place
    shown = ", ".join(str(place) for place in dict.fromkeys(places))
    raise DataError(f"{origin} names {named!r}, which lies in none of {shown}; say where with images=")


class Document:
    """A COCO document that grows image by image; its categories are the labels, in the order they came.

    categories: labels that have their place already, as where several documents share them.
    """

    def __init__(self, categories: Iterable[str] = ()) -> None:
        self.pictures: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories: dict[str, int] = {}
        for label in categories:
            self._category(label)

    def _category(self, label: str) -> int:
        return self.categories.setdefault(label, len(self.categories) + 1)

    def add_picture(self, file_name: str, size: tuple[int, int], **more: Any) -> int:
        """Take an image of (H, W), with further keys of its entry; its number."""
        number = len(self.pictures) + 1
        height, width = int(size[0]), int(size[1])
        self.pictures.append({"id": number, "file_name": file_name, "height": height, "width": width, **more})
        return number

    def add_mask(self, picture: int, mask: np.ndarray, label: str, *, crowd: bool = False, **more: Any) -> None:
        """Take a mask (H, W) bool of an image, with further keys of its annotation, such as ``score``."""
        about = annotation(mask, crowd=crowd)
        number = len(self.annotations) + 1
        category = self._category(label)
        self.annotations.append({"id": number, "image_id": picture, "category_id": category, **about, **more})

    def json(self) -> dict[str, Any]:
        """The document, ready to be written."""
        return {
            "images": self.pictures,
            "annotations": self.annotations,
            "categories": [{"id": number, "name": name} for name, number in self.categories.items()],
        }


def annotation(mask: np.ndarray, *, crowd: bool = False) -> dict[str, Any]:
    """What an annotation says of a mask (H, W) bool: its segmentation, area, box x, y, width, height, and iscrowd.

    Polygons where they say all of the mask, run lengths where it has holes and of crowds. Area and box are those that
    pycocotools counts; an empty mask is a run length, with zeros for both.
    """
    outer, holes = trace(mask)
    lengths = holes or crowd or not outer
    x0, y0, x1, y1 = extent(mask)
    return {
        "segmentation": rle.encode(mask) if lengths else [ring.ravel().tolist() for ring in outer],
        "area": int(np.count_nonzero(mask)),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": int(crowd),
    }


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write ``images/`` and ``annotations.json``; polygons where they say all of a mask, run lengths otherwise."""
    document = Document()
    for item in footage:
        for frame, stem in enumerate(copy_pictures(root / "images", item)):
            file = next((root / "images").glob(f"{stem}.*"))
            masks = item.read(frame)
            size = next((mask.shape for mask in masks.values()), None) or item.ids(frame).shape
            picture = document.add_picture(file.name, (int(size[0]), int(size[1])))
            for number, mask in masks.items():
                document.add_mask(picture, mask, item.classes.get(number, "object"))
            ignored = item.ignored(frame)
            if ignored is not None and ignored.any():
                document.add_mask(picture, ignored, "not counted", crowd=True)
        written.lose_identity(item)
    write_document(root / "annotations.json", document.json())


def write_shards(root: Path, footage: Sequence[Footage], written: Written, *, each: int = 1000) -> None:
    """Write ``00000.json`` and so on of `each` images, all with the same categories; images stay where they are.

    They are named by their path below the folder that all of them are in. Raises DataError for frames of one file.
    """
    files = [file for item in footage for file in _files(item)]
    folder = Path(os.path.commonpath([file.absolute().parent for file in files]))
    labels = sorted({label for item in footage for label in (item.classes.values() or ("object",))})
    document, number = Document(labels), 0
    for item in footage:
        for frame, file in enumerate(_files(item)):
            masks = item.read(frame)
            size = next((mask.shape for mask in masks.values()), None) or item.size(frame)
            assert size is not None
            name = file.absolute().relative_to(folder).as_posix()
            picture = document.add_picture(name, (int(size[0]), int(size[1])))
            for place, mask in masks.items():
                document.add_mask(picture, mask, item.classes.get(place, "object"))
            if len(document.pictures) == each:
                write_document(root / f"{number:05d}.json", document.json())
                document, number = Document(labels), number + 1
    if document.pictures:
        write_document(root / f"{number:05d}.json", document.json())


def _files(item: Footage) -> list[Path]:
    if not isinstance(item.media, tuple):
        raise DataError(f"{item.source} is one file: its frames have no files that COCO could name; write coco")
    return [item.media[number] for number in item.labelled]
