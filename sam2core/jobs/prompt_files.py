"""Prompts for many images or videos from one file: our JSON, a table, or a detector's boxes as COCO or YOLO has them.

| file | says |
|---|---|
| JSON ``{"prompts": [{"file", "object", "frame", "box", ...}]}`` | points, boxes and masks, also of videos |
| JSON ``{"a.jpg": [[x0, y0, x1, y1], {"box": ..., "category": ...}]}`` | boxes by image |
| JSON of COCO: a data set, or a list of results ``[{"image_id", "bbox", "category_id", "score"}]`` | boxes |
| CSV with a head, JSON lines | a row a box or a click |
| a folder of YOLO's ``NAME.txt`` | boxes; classes by ``data.yaml`` or ``classes.txt`` |

What COCO, YOLO and tables call an image may be a frame of a video: see `frame_names`.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sam2core.data import yolo
from sam2core.data.documents import entries, entry
from sam2core.data.pictures import files_in
from sam2core.jobs.frame_names import FrameNames, frame_size
from sam2core.jobs.inputs import LISTS
from sam2core.jobs.prompts import Prompts
from sam2core.storage import FileError, parse_json, read_json, read_text

COLUMNS = {
    "file": ("file", "image", "picture", "path", "filename", "file_name", "video", "clip"),
    "object": ("object", "id", "track_id", "object_id"),
    "category": ("category", "class", "label", "class_name"),
    "score": ("score", "confidence"),
    "frame": ("frame", "frame_number"),
    "x0": ("x0", "xmin", "x_min", "left", "x1"),
    "y0": ("y0", "ymin", "y_min", "top", "y1"),
    "x1": ("x1", "xmax", "x_max", "right", "x2"),
    "y1": ("y1", "ymax", "y_max", "bottom", "y2"),
    "x": ("x",),
    "y": ("y",),
    "point_label": ("point_label", "inside"),
}
"""What a column of a table is -> the names it may have. Where there is an x2, x1 is the left side."""
KIND = '{"prompts": [{"object", "frame", ...}]}'


@dataclass(frozen=True)
class Row:
    """An entry of a prompts file: where it stands, the file it speaks of, and what it says.

    file    as the prompts file has it; "" for every image or video
    loose   object and frame may be left out: objects are counted from 1, the frame is the first
    shares  the box is (x, y, width, height) of its centre and size, as shares of the image
    track   of a frame: which object of the video it is; "" for one of its own
    """

    where: str
    file: str
    said: Any
    loose: bool = True
    shares: bool = False
    track: str = ""

    def on_frame(self, number: int) -> Row:
        """The same of a frame of a video."""
        if not isinstance(self.said, dict):
            return self
        own = {"object": self.track} if self.track else {}
        return replace(self, said={**own, "frame": number, **self.said})


class PromptFile:
    """The prompts that a file or a folder says, by the image or video they are for.

    Raises ValueError that names the file and the entry, for what it cannot mean.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: dict[str, list[Row]] = defaultdict(list)
        for row in _rows(self.path):
            self.rows[row.file].append(row)

    @property
    def files(self) -> list[str]:
        """The files that it names, in order."""
        return [file for file in self.rows if file]

    def places(self) -> list[Path]:
        """The same as paths from its folder."""
        folder = self.path.parent if self.path.is_file() else self.path
        return [folder / file for file in self.files]

    def add_to(self, prompts: Prompts, rows: Iterable[Row], media: Path | None = None, *, still: bool = False) -> None:
        """Add rows to the prompts of an image or a video; `media` is its file. Raises ValueError that says where."""
        folder = (self.path.parent if self.path.is_file() else self.path).absolute()
        size: tuple[int, int] | None = None
        for row in rows:
            if row.said is None and row.loose:  # it names a file, and says nothing of it
                continue
            said = row.said
            if isinstance(said, dict):
                said = {key: value for key, value in said.items() if key != "file"}
                if row.shares:
                    assert media is not None
                    size = size or frame_size(media)
                    said["box"] = _box_of_shares(said["box"], size)
                if still or row.loose:
                    said = {"object": _next(prompts), "frame": 0, **said}
            prompts.add_entry(said, row.where, folder)

    def prompts(self, media: Path | None = None, *, still: bool = False) -> Prompts:
        """What it says of one image or video, or of whichever it is given with."""
        found = Prompts()
        rows = self.rows[""] + (self._by_file([media])[media] if media is not None and self.files else [])
        self.add_to(found, rows, media, still=still)
        return found

    def known(self, media: Path) -> Prompts:
        """What it says of an image or video that it may not know."""
        found = Prompts()
        self.add_to(found, [*self.rows[""], *self._found([media])[media]], media, still=True)
        return found

    def of_all(self, media: Sequence[Path], *, still: bool = False) -> dict[Path, Prompts]:
        """What it says of each of many. Raises ValueError: of none of them, or of a name that two have."""
        own = self._by_file(media)
        found = {path: Prompts() for path in media}
        for path in media:
            self.add_to(found[path], [*self.rows[""], *own[path]], path, still=still)
        return found

    def _by_file(self, media: Sequence[Path]) -> dict[Path, list[Row]]:
        found = self._found(media)
        if self.files and not any(found.values()):
            of = "" if media[0] not in FrameNames(media).videos else " or a frame of it"
            raise ValueError(f"{self.path} speaks of {self.files[0]!r} and others, and none of them is {media[0]}{of}")
        return found

    def _found(self, media: Sequence[Path]) -> dict[Path, list[Row]]:
        """The rows of each of many, of which it may know none."""
        found: dict[Path, list[Row]] = {path: [] for path in media}
        names, frames = _Names(media), FrameNames(media)
        for file in self.files:
            path = names.find(file, str(self.path))
            if path is not None:
                found[path] += self.rows[file]
            elif (place := frames.find(file)) is not None:
                found[place.video] += [row.on_frame(place.frame) for row in self.rows[file]]
        return found

    def strangers(self, media: Sequence[Path]) -> int:
        """How many of the files that it names are not among these."""
        names = _Names(media)
        return sum(names.find(file, str(self.path)) is None for file in self.files)


class _Names:
    """Files by every end of their path, and by their stem."""

    def __init__(self, media: Iterable[Path]) -> None:
        self.ends: dict[str, list[Path]] = defaultdict(list)
        self.stems: dict[str, list[Path]] = defaultdict(list)
        for path in media:
            parts = path.absolute().parts
            for start in range(len(parts)):
                self.ends["/".join(parts[start:])].append(path)
            self.stems[path.stem].append(path)

    def find(self, text: str, origin: str) -> Path | None:
        """The file that a text means: the one whose path ends most like it, else the one with that stem."""
        parts = PurePosixPath(text.replace("\\", "/")).parts
        for start in range(len(parts)):
            if found := self.ends.get("/".join(part for part in parts[start:] if part not in ("/", "."))):
                return self._only(found, text, origin)
        return self._only(self.stems.get(text, []), text, origin)

    @staticmethod
    def _only(found: Sequence[Path], text: str, origin: str) -> Path | None:
        if len(found) > 1:
            raise ValueError(f"{origin}: {text!r} is {found[0]} and {found[1]}: say more of its path")
        return found[0] if found else None


def _next(prompts: Prompts) -> str:
    """The next number that no object has."""
    number = len(prompts.objects) + 1
    while str(number) in prompts.objects:
        number += 1
    return str(number)


def _box_of_shares(shares: Sequence[float], size: tuple[int, int]) -> list[float]:
    height, width = size
    x, y, wide, high = shares
    return [(x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height]


# ---------------------------------------------------------------------------------------------------------- reading


def _rows(path: Path) -> Iterator[Row]:
    if path.is_dir():
        return _yolo(path)
    if path.suffix.lower() == ".csv":
        return _table(path)
    if path.suffix.lower() == ".jsonl":
        return _lines(path)
    return _tree(path)


def _tree(path: Path) -> Iterator[Row]:
    """Rows of a JSON file: ours, boxes by image, or COCO."""
    try:
        tree = read_json(path)
    except FileError as error:
        raise ValueError(f"{path}: a prompts file is {KIND} ({error!r})") from None
    if isinstance(tree, dict) and isinstance(tree.get("prompts"), list):
        for at, said in enumerate(tree["prompts"]):
            file = said.get("file", "") if isinstance(said, dict) else ""
            yield Row(f"{path}: prompt {at}", _text(file, f"{path}: prompt {at}"), said, loose=False)
    elif isinstance(tree, dict) and "images" in tree and "annotations" in tree:
        yield from _coco(path, tree)
    elif isinstance(tree, list) and tree and all(isinstance(one, dict) and "bbox" in one for one in tree):
        yield from _results(path, tree)
    elif isinstance(tree, dict) and tree and all(isinstance(boxes, list) for boxes in tree.values()):
        for file, boxes in tree.items():
            if not boxes:
                yield Row(str(path), file, None)
            for at, said in enumerate(boxes):
                yield Row(f"{path}: {file}[{at}]", file, said if isinstance(said, dict) else {"box": said})
    else:
        shown = f"it holds {type(tree).__name__}" if not isinstance(tree, dict) else f"it has {list(tree)[:3]}"
        raise ValueError(f'{path}: a prompts file is {KIND}, {{"a.jpg": [box, ...]}} or COCO ({shown})')


def _coco(path: Path, tree: dict[str, Any]) -> Iterator[Row]:
    names = {
        entry(one, "id", f"{path}: images[{at}]"): entry(one, "file_name", f"{path}: images[{at}]")
        for at, one in enumerate(entries(tree, "images", path))
    }
    classes = {one.get("id"): str(one.get("name", one.get("id"))) for one in tree.get("categories") or ()}
    for at, one in enumerate(entries(tree, "annotations", path)):
        where = f"{path}: annotations[{at}]"
        picture = entry(one, "image_id", where)
        if picture not in names:
            raise ValueError(f"{where} is of the image {picture!r}, which is none of its images")
        kind = classes.get(one.get("category_id"), "")
        if not one.get("iscrowd"):
            yield Row(where, names[picture], _coco_box(one, where, kind), track=_track(one))


def _results(path: Path, results: list[dict[str, Any]]) -> Iterator[Row]:
    """A detector's results: an image's name is ``file_name``, or its id where that is one."""
    for at, one in enumerate(results):
        where = f"{path}[{at}]"
        file = one.get("file_name", one.get("image_id"))
        yield Row(where, str(file), _coco_box(one, where, str(one.get("category_id", ""))), track=_track(one))


def _track(one: dict[str, Any]) -> str:
    """Which object of a video an annotation is of, as CVAT and datumaro say it; "" where it is not said."""
    attributes = one.get("attributes")
    said = one.get("track_id", attributes.get("track_id") if isinstance(attributes, dict) else None)
    return "" if said is None else str(said)


def _coco_box(one: dict[str, Any], where: str, kind: str) -> dict[str, Any]:
    box = entry(one, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        raise ValueError(f"{where}: a bbox is [x, y, width, height], not {box!r}")
    x, y, width, height = box
    return {"box": [x, y, x + width, y + height], "category": kind, "score": one.get("score")}


def _lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            said = parse_json(line, where)
            if not isinstance(said, dict):
                raise ValueError(f'{where} is no {{"file", "box", ...}}: {line[:60]!r}')
            said = {_column(key, said): value for key, value in said.items()}
            yield _row(where, said)


def _table(path: Path) -> Iterator[Row]:
    """Rows of a CSV, whose head says what a column is."""
    reader = csv.DictReader(read_text(path).splitlines())
    head = [name.strip() for name in reader.fieldnames or ()]
    known = {name: _column(name, head) for name in head}
    if "file" not in known.values():
        named = ", ".join(COLUMNS["file"])
        raise ValueError(f"{path} has no column that names a file ({named}); it has {', '.join(head) or 'nothing'}")
    for number, cells in enumerate(reader, 2):
        said: dict[str, Any] = {}
        for name, cell in cells.items():
            if name is None or cell is None:
                raise ValueError(f"{path}, line {number} has not the {len(head)} cells of the head")
            if known[name.strip()] in COLUMNS and cell.strip():
                said[known[name.strip()]] = _cell(known[name.strip()], cell.strip(), f"{path}, line {number}: {name}")
        yield _row(f"{path}, line {number}", said)


def _column(name: str, names: Iterable[str]) -> str:
    """What a column or a key is: ours where it is known, else as it is called."""
    word = name.lower()
    if "x2" in {each.lower() for each in names} and word in ("x1", "y1"):
        return {"x1": "x0", "y1": "y0"}[word]
    for ours, theirs in COLUMNS.items():
        if word == ours or (word in theirs and word not in ("x1", "y1")):
            return ours
    return word


def _cell(column: str, text: str, where: str) -> Any:
    if column in ("file", "object", "category"):
        return text
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where} is {text!r}, no number") from None
    return int(value) if column in ("frame", "point_label") else value


def _row(where: str, said: dict[str, Any]) -> Row:
    """A row of a table as an entry: its four sides a box, its x and y a click. One that says nothing names a file."""
    said = {key: value for key, value in said.items() if value is not None}
    file = _text(said.pop("file", ""), where)
    sides = [said.pop(side) for side in ("x0", "y0", "x1", "y1") if side in said]
    if sides and len(sides) < 4:
        raise ValueError(f"{where} has {len(sides)} of a box's four sides")
    if sides:
        said["box"] = sides
    if "x" in said and "y" in said:
        said["points"] = [[said.pop("x"), said.pop("y")]]
        said["labels"] = [said.pop("point_label", 1)]
    speaks = any(key in said for key in ("box", "points", "mask"))
    return Row(where, file, said if speaks else None)


def _yolo(folder: Path) -> Iterator[Row]:
    """Boxes of YOLO: a txt an image, a line an object: class, centre and size as shares, or a polygon, score."""
    files = files_in(folder, (".txt",))
    files = [file for file in files if file.name != "classes.txt"]
    if not files:
        raise ValueError(f"{folder} holds no NAME.txt with boxes")
    classes = yolo.class_names(folder) or yolo.class_names(folder.parent)
    for file in files:
        lines = read_text(file).splitlines()
        if not any(line.strip() for line in lines):
            yield Row(str(file), file.stem, None)
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _yolo_row(line.split(), f"{file}, line {number}", file.stem, classes)


def _yolo_row(words: list[str], where: str, stem: str, classes: dict[int, str]) -> Row:
    try:
        kind, values = int(float(words[0])), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    score = values.pop() if len(values) == 5 else None
    if len(values) >= 6 and len(values) % 2 == 0:  # a polygon: the box around it
        xs, ys = values[::2], values[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    if len(values) != 4:
        raise ValueError(f"{where}: a class, x, y, width and height are wanted, got {len(values)} values")
    said = {"box": values, "category": classes.get(kind, str(kind)), "score": score}
    return Row(where, stem, said, shares=True)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: a file's name is a text, not {value!r}")
    return value


def is_list(word: str) -> bool:
    """Whether a word names a list of files."""
    return word.lower().endswith(LISTS) and Path(word).is_file()
