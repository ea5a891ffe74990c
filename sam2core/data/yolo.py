"""YOLO-seg: ``data.yaml``, ``images/*`` and ``labels/*.txt``, a line an object: its class, then x y x y ..."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.footage import Footage, Shape, ShapeFootage
from sam2core.data.pictures import PICTURES, DataError, displayed_size, files_below, files_in, inside
from sam2core.data.writing import Written, copy_pictures
from sam2core.ops.polygons import as_one_ring, is_degenerate, trace

SPLITS = ("train", "val", "test")


def recognise(root: Path) -> bool:
    if _settings_file(root) is not None:
        return True
    return (root / "images").is_dir() and bool(files_below(root / "labels", (".txt",)))


def _settings_file(root: Path) -> Path | None:
    """The YAML of a data set: the one that names its classes."""
    for path in files_in(root, (".yaml", ".yml")):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if "names:" in text and any(f"{split}:" in text for split in SPLITS):
            return path
    return None


def read(root: Path, *, split: str = "") -> list[Footage]:
    """The images of a split, or of all that the YAML names, in order; one without a txt has no object.

    Raises DataError that names the file and the line.
    """
    settings = _settings(root)
    wanted = [split] if split else [each for each in SPLITS if settings.get(each)]
    folders = list(dict.fromkeys(folder for each in wanted for folder in _folders(root, settings, each)))
    if not folders:
        if split:
            known = ", ".join(each for each in SPLITS if settings.get(each)) or "none"
            raise DataError(f"{root} has no split {split!r}; its YAML names {known}")
        folders = [root / "images"]
    classes = _classes(settings)
    found: list[Footage] = []
    for folder in folders:
        for image in files_below(folder, PICTURES):
            found.append(_picture(image, root, _labels_of(image), classes))
    if not found:
        raise DataError(f"{', '.join(map(str, folders))} holds no image ({', '.join(PICTURES)})")
    if not any(item.objects(0) for item in found):
        raise DataError(f"{root} holds no object: none of its {len(found)} images has a polygon in a labels/*.txt")
    return found


def class_names(root: Path) -> dict[int, str]:
    """What the classes of a folder are called: by its YAML, or by its ``classes.txt``; empty where nothing says so."""
    listed = root / "classes.txt"
    if _settings_file(root) is None and listed.is_file():
        return dict(enumerate(listed.read_text(encoding="utf-8-sig").splitlines()))
    return _classes(_settings(root))


def _classes(settings: dict[str, Any]) -> dict[int, str]:
    names = settings.get("names") or {}
    return {number: str(name) for number, name in (enumerate(names) if isinstance(names, list) else names.items())}


def _settings(root: Path) -> dict[str, Any]:
    path = _settings_file(root)
    if path is None:
        return {}
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path} is no mapping of names and splits")
    return tree


def _folders(root: Path, settings: dict[str, Any], split: str) -> list[Path]:
    """The folders of a split's images; the YAML's `path` is where it was made, so what lies here comes first."""
    said = settings.get(split)
    found = []
    for each in said if isinstance(said, list) else [said] if said else []:
        text = str(each).removeprefix("../").removeprefix("./")
        places = [inside(root, text, f"{root}: {split}")] if not Path(text).is_absolute() else []
        places.append(root / "images" / split)
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise DataError(f"{root}: the YAML's {split} is {each!r}, but there is no {places[0]}")
        found.append(place)
    return found


def _labels_of(image: Path) -> Path:
    """The txt of an image: its path with the last ``images`` as ``labels``."""
    parts = list(image.with_suffix(".txt").parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def _picture(image: Path, root: Path, labels: Path, classes: dict[int, str]) -> ShapeFootage:
    shapes: list[Shape] = []
    boxes = degenerate = 0
    height, width = displayed_size(image)
    lines = labels.read_text(encoding="utf-8-sig").splitlines() if labels.exists() else []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, values = int(float(words[0])), np.array(words[1:], dtype=np.float64)
        except ValueError as error:
            raise DataError(f"{labels}, line {number}: {error}") from error
        if len(values) == 4:
            boxes += 1
            continue
        if len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
            raise DataError(f"{labels}, line {number}: a class and x, y pairs are wanted, got {len(values)} values")
        ring = (values.reshape(-1, 2) * (width, height)).round(4)
        if is_degenerate(ring):
            degenerate += 1
            continue
        shapes.append(Shape(len(shapes) + 1, [ring.ravel().tolist()], classes.get(kind, str(kind))))
    named = {shape.number: shape.label for shape in shapes}
    name = image.relative_to(root).as_posix().removeprefix("images/")
    item = ShapeFootage(name, (image,), (shapes,), origin=labels, source=str(image), classes=named)
    if boxes:
        item.notes.append(f"{labels}: {boxes} boxes without a mask were left out")
    if degenerate:
        item.notes.append(f"{labels}: {degenerate} polygons without an inside were left out")
    return item


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write ``data.yaml``, ``images/train`` and ``labels/train``; pieces and holes become one ring with slits."""
    classes: dict[str, int] = {}
    (root / "labels" / "train").mkdir(parents=True)
    for item in footage:
        for frame, stem in enumerate(copy_pictures(root / "images" / "train", item)):
            lines = []
            for number, mask in item.read(frame).items():
                ring = as_one_ring(*trace(mask)) / (mask.shape[1], mask.shape[0])
                kind = classes.setdefault(item.classes.get(number, "object"), len(classes))
                if len(ring):
                    lines.append(" ".join([str(kind), *(f"{value:.7g}" for value in ring.ravel())]))
            (root / "labels" / "train" / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines))
            ignored = item.ignored(frame)
            written.lose("pixels that are not counted", 0 if ignored is None else int(ignored.sum()))
        written.lose_identity(item)
    splits = "train: images/train\nval: images/train\n"
    names = "".join(f"  {number}: {name}\n" for name, number in classes.items())
    (root / "data.yaml").write_text(f"path: .\n{splits}names:\n{names}", encoding="utf-8")
