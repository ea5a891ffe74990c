"""CVAT for video 1.1: ``annotations.xml`` with tracks of polygons and masks, beside ``images/`` or a video file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from sam2core.data.documents import head
from sam2core.data.footage import Footage, Media, Shape, ShapeFootage, naming
from sam2core.data.pictures import CLIPS, PICTURES, DataError, files_in, first_folder, folders_in
from sam2core.data.writing import Written, copy_pictures
from sam2core.ops import rle
from sam2core.ops.polygons import extent, is_degenerate


def recognise(root: Path) -> bool:
    return bool(_documents(root))


def _documents(root: Path) -> list[Path]:
    places = [root, *folders_in(root)]
    found = [path for place in places for path in files_in(place, (".xml",))]
    return [path for path in found if "<annotations" in (text := head(path)) and "<version>" in text]


def read(root: Path) -> list[Footage]:
    """A video per ``annotations.xml``, in the folder itself or in those below it. Raises DataError."""
    found = _documents(root)
    if not found:
        raise DataError(f"{root} holds no XML file of CVAT's")
    return [_clip(root, path) for path in found]


def _clip(root: Path, path: Path) -> ShapeFootage:
    text = path.read_text(encoding="utf-8-sig")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path} declares a document type, which CVAT's files do not and which is not read")
    try:
        tree = xml.fromstring(text)
    except xml.ParseError as error:
        raise DataError(f"cannot read annotations {path}: {error}") from error
    name = path.parent.name if path.parent != root or path.stem == "annotations" else path.stem
    media, numbers = _media(path, tree)
    by_frame: dict[int, list[Shape]] = {}
    classes: dict[int, str] = {}
    left_out = degenerate = 0
    for place, track in enumerate(tree.iter("track"), 1):
        number = int(track.get("id", place - 1)) + 1
        classes[number] = track.get("label", "")
        for element in track:
            where = f"{path}: track {number - 1}, frame {element.get('frame')}"
            with naming(where):
                at = numbers(int(element.attrib["frame"]))
                by_frame.setdefault(at, [])
                if element.get("outside") == "1":
                    continue
                coded = _coded(element, tree)
                if coded is None:
                    left_out += 1
                elif coded == []:
                    degenerate += 1
                else:
                    by_frame[at].append(Shape(number, coded, classes[number]))
    if not by_frame:
        raise DataError(f"{path} holds no track; CVAT's format for video 1.1 has them")
    labelled = sorted(by_frame)
    shapes = [by_frame[at] for at in labelled]
    item = ShapeFootage(
        name, media, shapes, labelled, drawn_on=_size(tree), origin=path, source=str(path), classes=classes
    )
    if left_out:
        item.notes.append(f"{path}: {left_out} boxes, lines and points without a mask were left out")
    if degenerate:
        item.notes.append(f"{path}: {degenerate} polygons without an inside were left out")
    return item


def _coded(element: xml.Element, tree: xml.Element) -> object | None:
    """A shape as a ring or as run lengths; None for a kind that has no mask, an empty list for one without inside."""
    if element.tag == "polygon":
        ring = [float(value) for value in re.split(r"[;,]", element.attrib["points"])]
        return [] if is_degenerate(ring) else [ring]
    if element.tag != "mask":
        return None
    size = _size(tree)
    if size is None:
        raise ValueError("the file does not say how large its frames are: meta has no original_size")
    left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
    lengths = np.array([int(value) for value in element.attrib["rle"].split(",")])
    if (lengths < 0).any() or lengths.sum() > width * height:
        raise ValueError(f"its runs cover {int(lengths.sum())} pixels, the mask is {width}x{height}")
    flat = np.zeros(width * height, dtype=bool)
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    flat[: len(values)] = values
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"a mask of {width}x{height} at {left}, {top} lies outside a frame of {size[1]}x{size[0]}")
    whole = np.zeros(size, dtype=bool)
    whole[top : top + height, left : left + width] = flat.reshape(height, width)
    return rle.encode(whole)


def _size(tree: xml.Element) -> tuple[int, int] | None:
    found = tree.find(".//original_size")
    if found is None:
        return None
    return int(found.findtext("height", "0")), int(found.findtext("width", "0"))


def _media(path: Path, tree: xml.Element) -> tuple[Media, Callable[[int], int]]:
    """The frames of a task, and what makes a frame's place among them of the number that the file gives it."""
    folder = first_folder(path.parent, ("images", "obj_train_data", "data"))
    if folder is not None:
        media = tuple(files_in(folder, PICTURES))
        if not media:
            raise DataError(f"{folder} holds no image ({', '.join(PICTURES)})")
        numbered = [re.fullmatch(r"frame_(\d+)", file.stem) for file in media]
        if all(numbered):
            places = {int(match[1]): place for place, match in enumerate(numbered) if match}
        else:
            places = {place: place for place in range(len(media))}
        return media, _Places(places, folder)
    said = tree.findtext(".//source") or ""
    clips = files_in(path.parent, CLIPS)
    named = [clip for clip in clips if clip.name == Path(said).name] or clips
    if len(named) != 1:
        raise DataError(f"{path} has neither a folder images/ nor {said or 'one video file'} beside it")
    start = int(tree.findtext(".//start_frame") or 0)
    step = re.fullmatch(r"step=(\d+)", (tree.findtext(".//frame_filter") or "").strip())
    return named[0], _Steps(start, int(step[1]) if step else 1)


class _Places:
    """Frames by the numbers in their files' names."""

    def __init__(self, places: dict[int, int], folder: Path) -> None:
        self.places, self.folder = places, folder

    def __call__(self, number: int) -> int:
        if number not in self.places:
            raise ValueError(f"{self.folder} has no frame {number}")
        return self.places[number]


class _Steps:
    """Frames of a video of which a task took every so many."""

    def __init__(self, start: int, step: int) -> None:
        self.start, self.step = start, step

    def __call__(self, number: int) -> int:
        return self.start + number * self.step


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write a folder per video with ``annotations.xml`` and ``images/frame_N``; every object is a track of masks."""
    for item in footage:
        folder = root / item.name
        names = copy_pictures(folder / "images", item, every=True)
        for place, name in enumerate(names):
            (file,) = (folder / "images").glob(f"{name}.*")
            file.rename(folder / "images" / f"frame_{place:06d}{file.suffix}")
        written.lose("names of frames, which are counted from 0", len(names))
        _document(item, len(names), written, folder / "annotations.xml")


def _document(item: Footage, length: int, written: Written, path: Path) -> None:
    tree = xml.Element("annotations")
    xml.SubElement(tree, "version").text = "1.1"
    task = xml.SubElement(xml.SubElement(tree, "meta"), "task")
    xml.SubElement(task, "name").text = item.name
    xml.SubElement(task, "size").text = str(length)
    xml.SubElement(task, "mode").text = "interpolation"
    size = xml.SubElement(task, "original_size")
    tracks: dict[int, xml.Element] = {}
    height = width = 0
    for frame, at in enumerate(item.labelled):
        masks = item.read(frame)
        height, width = next((mask.shape for mask in masks.values()), (height, width))
        ignored = item.ignored(frame)
        written.lose("pixels that are not counted", 0 if ignored is None else int(ignored.sum()))
        for number, mask in masks.items():
            if number not in tracks:
                label = item.classes.get(number, "object")
                tracks[number] = xml.SubElement(tree, "track", id=str(number - 1), label=label, source="manual")
            tracks[number].append(_mask_element(mask, at))
        for number in set(tracks) - set(masks):
            gone = xml.SubElement(tracks[number], "mask", frame=str(at), outside="1", occluded="0", keyframe="1")
            gone.attrib |= {"rle": "1", "left": "0", "top": "0", "width": "1", "height": "1", "z_order": "0"}
    xml.SubElement(size, "width").text, xml.SubElement(size, "height").text = str(width), str(height)
    xml.indent(tree)
    xml.ElementTree(tree).write(path, encoding="utf-8", xml_declaration=True)


def _mask_element(mask: np.ndarray, frame: int) -> xml.Element:
    x0, y0, x1, y1 = extent(mask)
    window = mask[y0 : max(y1, 1), x0 : max(x1, 1)]
    runs = rle.runs(window.T)  # along the rows
    said = {
        "frame": frame,
        "outside": int(not x1),
        "occluded": 0,
        "keyframe": 1,
        "rle": ", ".join(map(str, runs.tolist())),
        "left": x0,
        "top": y0,
        "width": window.shape[1],
        "height": window.shape[0],
        "z_order": 0,
    }
    return xml.Element("mask", {key: str(value) for key, value in said.items()})
