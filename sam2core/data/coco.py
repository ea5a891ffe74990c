"""COCO instances: a JSON file of pictures and of polygons or run lengths on them, written and read.

Crowds are no objects; what they cover beside objects is not counted. Polygons lie on the picture as displayed, unless
the file's ``height`` and ``width`` are those of the stored one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sam2core.data.documents import entries, entry, head, mentions
from sam2core.data.footage import Footage, Shape, ShapeFootage, naming, usable_rings
from sam2core.data.pictures import DataError, files_in, first_folder, folders_in, inside, read_json
from sam2core.data.writing import Written, copy_pictures, write_document
from sam2core.ops import rle
from sam2core.ops.polygons import trace


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
    """The annotated pictures in the order of the file.

    annotations: the JSON file below `root`, which must be said where there are several; images: the folder of the
    pictures; without it where they usually lie. crowds: take crowds as objects. Raises DataError that names the file
    and the key.
    """
    origin = _document(root, annotations)
    tree = read_json(origin)
    pictures = entries(tree, "images", origin)
    if tree.get("annotations", 0) is None:
        raise DataError(f"{origin}: 'annotations' is null, so no picture has any")
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
        left_out.append(f"{origin}: {len(shapes)} pictures that annotations speak of are not among its images")
    if not found:
        because = f" ({'; '.join(left_out)})" if left_out else ""
        raise DataError(f"{origin} holds no annotated picture{because}")
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
    """By picture, its objects and its crowds, and sentences about what has no mask."""
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
        return root  # the picture without a name is told when its turn comes
    for place in places:
        if inside(place, named, origin).is_file():
            return place
    shown = ", ".join(str(place) for place in dict.fromkeys(places))
    raise DataError(f"{origin} names {named!r}, which lies in none of {shown}; say where with images=")


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write ``images/`` and ``annotations.json``; polygons where they say all of a mask, run lengths otherwise."""
    pictures: list[dict[str, Any]] = []
    annotated: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for item in footage:
        for frame, stem in enumerate(copy_pictures(root / "images", item)):
            file = next((root / "images").glob(f"{stem}.*"))
            masks = item.read(frame)
            size = next((mask.shape for mask in masks.values()), None) or item.ids(frame).shape
            pictures.append(
                {"id": len(pictures) + 1, "file_name": file.name, "height": int(size[0]), "width": int(size[1])}
            )
            for number, mask in masks.items():
                label = item.classes.get(number, "object")
                category = categories.setdefault(label, len(categories) + 1)
                annotated.append(_annotation(len(annotated) + 1, len(pictures), category, mask))
            ignored = item.ignored(frame)
            if ignored is not None and ignored.any():
                category = categories.setdefault("not counted", len(categories) + 1)
                annotated.append(_annotation(len(annotated) + 1, len(pictures), category, ignored, crowd=True))
        written.lose_identity(item)
    document = {
        "images": pictures,
        "annotations": annotated,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    write_document(root / "annotations.json", document)


def _annotation(number: int, picture: int, category: int, mask: Any, *, crowd: bool = False) -> dict[str, Any]:
    outer, holes = trace(mask)
    coded: Any = rle.encode(mask) if holes or crowd else [ring.ravel().tolist() for ring in outer]
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    box = [0, 0, 0, 0]
    if len(rows):
        x, y = int(columns[0]), int(rows[0])
        box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {
        "id": number,
        "image_id": picture,
        "category_id": category,
        "segmentation": coded,
        "area": int(mask.sum()),
        "bbox": box,
        "iscrowd": int(crowd),
    }
