"""Label Studio's JSON export: brush regions and polygons on images, beside or below the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sam2core.data import brush
from sam2core.data.documents import entry, head, mentions
from sam2core.data.footage import Footage, Shape, ShapeFootage, naming
from sam2core.data.pictures import PICTURES, DataError, files_below, files_in, read_json
from sam2core.data.writing import Written, copy_pictures, write_document
from sam2core.ops import rle
from sam2core.ops.polygons import is_degenerate


def recognise(root: Path) -> bool:
    return bool(_documents(root))


def _documents(root: Path) -> list[Path]:
    found = []
    for path in files_in(root, (".json",)):
        text = head(path)
        if (
            text.lstrip().startswith("[")
            and mentions(text, "data")
            and ("annotations" in text or "completions" in text)
        ):
            found.append(path)
    return found


def read(root: Path, *, annotations: str = "") -> list[Footage]:
    """The images that have regions, in the order of the file; the first annotation of a task that was not cancelled.

    annotations: the file, which must be said where there are several. Raises DataError that names the file and task.
    """
    found = [root / annotations] if annotations else _documents(root)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{root} must hold one export of Label Studio, choose with annotations=; there are {names}")
    (origin,) = found
    tasks = read_json(origin)
    if not isinstance(tasks, list):
        raise DataError(f"{origin} is no list of tasks: export as JSON")
    held: dict[str, list[Path]] = {}
    for path in files_below(root, PICTURES):
        held.setdefault(path.name, []).append(path)
    items: list[Footage] = [
        item for place, task in enumerate(tasks) if (item := _task(task, f"{origin}: [{place}]", root, held))
    ]
    if not items:
        raise DataError(f"{origin} holds no image with a brush region or a polygon")
    return items


def _task(task: Any, where: str, root: Path, held: dict[str, list[Path]]) -> ShapeFootage | None:
    if not isinstance(task, dict):
        raise DataError(f"{where} is no task")
    answers = task.get("annotations") or task.get("completions") or ()
    answer = next((one for one in answers if not one.get("was_cancelled")), None)
    results = (answer or {}).get("result") or ()
    shapes: list[Shape] = []
    size: tuple[int, int] | None = None
    boxes = degenerate = 0
    for place, result in enumerate(results):
        kind = str(result.get("type", ""))
        if kind not in ("brushlabels", "brush", "polygonlabels", "polygon"):
            boxes += kind in ("rectanglelabels", "rectangle", "ellipselabels", "ellipse")
            continue
        with naming(f"{where}, result {place}"):
            size = int(result["original_height"]), int(result["original_width"])
            if result.get("image_rotation"):
                raise ValueError(f"image_rotation is {result['image_rotation']}; only 0 is read")
            value = result["value"]
            label = next(iter(value.get(kind) or value.get("labels") or ("",)))
            if kind.startswith("brush"):
                coded: Any = rle.encode(brush.decode(value["rle"], size))
            else:
                ring = [float(each) * side / 100 for point in value["points"] for each, side in zip(point, size[::-1])]
                if is_degenerate(ring):
                    degenerate += 1
                    continue
                coded = [ring]
        shapes.append(Shape(len(shapes) + 1, coded, str(label)))
    if not shapes:
        return None
    image = _picture(task, where, root, held)
    named = {shape.number: shape.label for shape in shapes if shape.label}
    item = ShapeFootage(
        image.relative_to(root).as_posix(), (image,), (shapes,), drawn_on=size, origin=where, classes=named
    )
    if boxes:
        item.notes.append(f"{where}: {boxes} boxes without a mask were left out")
    if degenerate:
        item.notes.append(f"{where}: {degenerate} polygons without an inside were left out")
    return item


def _picture(task: dict[str, Any], where: str, root: Path, held: dict[str, list[Path]]) -> Path:
    """The file of a task's image, by the name at the end of its address; an upload has a hash before it."""
    data = entry(task, "data", where)
    address = next((each for key, each in data.items() if isinstance(each, str) and _is_picture(each)), None)
    if address is None:
        raise DataError(f"{where} names no image in its 'data'")
    name = _file_name(address)
    for wanted in (name, name.partition("-")[2]):
        if len(held.get(wanted, ())) == 1:
            return held[wanted][0]
        if len(held.get(wanted, ())) > 1:
            raise DataError(f"{where} names {address!r}, and {root} holds several files {wanted}")
    raise DataError(f"{where} names {address!r}, but there is no {name} below {root}")


def _file_name(address: str) -> str:
    parts = urlsplit(address)
    inner = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]  # /data/local-files/?d=folder/name.jpg
    return inner.replace("\\", "/").rpartition("/")[2]


def _is_picture(text: str) -> bool:
    return _file_name(text).lower().endswith(PICTURES)


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write ``images/`` and ``export.json`` with a brush region per object."""
    tasks: list[dict[str, Any]] = []
    for item in footage:
        for frame, stem in enumerate(copy_pictures(root / "images", item)):
            (file,) = (root / "images").glob(f"{stem}.*")
            results = []
            for number, mask in item.read(frame).items():
                label = item.classes.get(number, "object")
                results.append(
                    {
                        "id": f"r{number}",
                        "type": "brushlabels",
                        "from_name": "label",
                        "to_name": "image",
                        "original_width": int(mask.shape[1]),
                        "original_height": int(mask.shape[0]),
                        "image_rotation": 0,
                        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": [label]},
                    }
                )
            ignored = item.ignored(frame)
            written.lose("pixels that are not counted", 0 if ignored is None else int(ignored.sum()))
            answer = {"id": len(tasks) + 1, "result": results}
            tasks.append({"id": len(tasks) + 1, "data": {"image": f"images/{file.name}"}, "annotations": [answer]})
        written.lose_identity(item)
    write_document(root / "export.json", tasks)
