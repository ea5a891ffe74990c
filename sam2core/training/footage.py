"""Labelled footage on disk, read when it is asked for: SA-1B, SA-V, DAVIS, MOSE, YouTube-VOS, COCO.

A reader lists a folder and returns one `Footage` per video or picture; nothing is decoded before a clip is sampled, and
then only the frames and the objects that the clip needs. Errors name the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sam2core.ops import rle
from sam2core.training.clips import IMAGE_SUFFIXES, DataError, read_labels, read_picture

SAV_STEP = 4  # SA-V's videos run at 24 frames a second, its masks at 6


class Footage:
    """One video, or one picture: `length` labelled frames, their pictures, and the objects on each."""

    source: str
    length: int

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        """The pictures (H, W, 3) uint8 of some labelled frames."""
        raise NotImplementedError

    def objects(self, frame: int) -> list[int]:
        """The ids of the objects that may be seen on a labelled frame."""
        raise NotImplementedError

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        """The masks (N, H, W) bool of some objects on a labelled frame; empty for one that is not there."""
        raise NotImplementedError


class PaletteFootage(Footage):
    """A folder of frames and one of palette PNGs whose values are object ids, or with one folder of PNGs per object."""

    def __init__(self, name: str, images: Path, labels: Path):
        self.source = name
        pictures = {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
        folders = sorted(path for path in labels.iterdir() if path.is_dir())
        self.folders = {number + 1: folder for number, folder in enumerate(folders)}
        listed = {path.stem for folder in folders or [labels] for path in folder.glob("*.png")}
        stems = sorted(listed & pictures.keys())
        if not stems:
            raise DataError(f"no frame of {images} has labels in {labels}")
        missing = sorted(listed - pictures.keys())
        if missing:
            raise DataError(f"{labels} has labels of {missing[0]!r}, but {images} has no such frame")
        self.frames = [pictures[stem] for stem in stems]
        self.labels = [labels / f"{stem}.png" for stem in stems]
        self.length = len(stems)

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        return [read_picture(self.frames[frame]) for frame in frames]

    def objects(self, frame: int) -> list[int]:
        if self.folders:
            name = self.labels[frame].name
            return [number for number, folder in self.folders.items() if (folder / name).exists()]
        return [int(value) for value in np.unique(read_labels(self.labels[frame])) if value not in (0, 255)]

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        if not self.folders:
            labels = read_labels(self.labels[frame])
            return np.stack([labels == number for number in ids])
        name = self.labels[frame].name
        found = {n: read_labels(self.folders[n] / name) > 0 for n in ids if (self.folders[n] / name).exists()}
        if found:
            shape = next(iter(found.values())).shape
        else:
            with Image.open(self.frames[frame]) as picture:
                shape = (picture.height, picture.width)
        return np.stack([found.get(number, np.zeros(shape, dtype=bool)) for number in ids])


class SavFootage(Footage):
    """A video of SA-V: an mp4 or a folder of its frames, and the masklets of one JSON file."""

    def __init__(self, annotation: Path, video: Path):
        self.source = str(annotation)
        self.annotation, self.video = annotation, video
        self.files = sorted(p for p in video.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if video.is_dir() else []

    @cached_property
    def masklet(self) -> list[list[Any]]:
        tree = read_json(self.annotation)
        if "masklet" not in tree:
            raise DataError(f"{self.annotation} holds no 'masklet'")
        return tree["masklet"]

    @property
    def length(self) -> int:  # type: ignore[override]
        return len(self.masklet)

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        wanted = [frame * SAV_STEP for frame in frames]
        if not self.video.is_dir():
            return read_video(self.video, wanted)
        if wanted and max(wanted) >= len(self.files):
            raise DataError(f"{self.video} has {len(self.files)} frames, {self.annotation} has labels of {max(wanted)}")
        return [read_picture(self.files[frame]) for frame in wanted]

    def objects(self, frame: int) -> list[int]:
        return [number for number, coded in enumerate(self.masklet[frame]) if coded and rle.area(coded)]

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        row = self.masklet[frame]
        found = {n: rle.decode(row[n]) for n in ids if n < len(row) and row[n]}
        if found:
            shape = next(iter(found.values())).shape
        else:
            sizes = [coded["size"] for other in self.masklet for coded in other if coded]
            shape = tuple(sizes[0])
        return np.stack([found.get(number, np.zeros(shape, dtype=bool)) for number in ids])


class CodedPicture(Footage):
    """A picture with coded masks: COCO's run lengths or polygons, decoded one by one when they are asked for."""

    length = 1

    def __init__(self, image: Path, read: Callable[[], list[Any]], size: tuple[int, int] | None = None):
        self.source = str(image)
        self.image, self._read, self.size = image, read, size

    @cached_property
    def coded(self) -> list[Any]:
        return self._read()

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        return [read_picture(self.image) for _ in frames]

    def objects(self, frame: int) -> list[int]:
        return list(range(len(self.coded)))

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        try:
            return np.stack([decode(self.coded[number], self.size) for number in ids])
        except ValueError as error:
            raise DataError(f"a mask of {self.image}: {error}") from error


def decode(coded: Any, size: tuple[int, int] | None) -> np.ndarray:
    """A mask (H, W) bool from COCO's run lengths, or from polygons [[x, y, x, y, ...], ...] on a picture of (H, W)."""
    if not isinstance(coded, list):
        return rle.decode(coded)
    if size is None:
        raise ValueError("polygons need the size of their picture")
    canvas = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for polygon in coded:
        pen.polygon([(x, y) for x, y in zip(polygon[::2], polygon[1::2])], fill=1)
    return np.array(canvas)


def palette_videos(
    root: str | Path, *, images: str = "JPEGImages", labels: str = "Annotations", videos: Sequence[str] = ()
) -> list[Footage]:
    """DAVIS, MOSE, YouTube-VOS: `images`/VIDEO/*.jpg with `labels`/VIDEO/*.png, or VIDEO/OBJECT/*.png.

    DAVIS needs images="JPEGImages/480p", labels="Annotations/480p". videos: only these. Frames without labels are left
    out. Raises DataError for a folder that is missing or holds nothing.
    """
    root = Path(root)
    for folder in (root / images, root / labels):
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}")
    names = list(videos) or sorted(path.name for path in (root / labels).iterdir() if path.is_dir())
    if not names:
        raise DataError(f"{root / labels} holds no video folders")
    for name in names:
        for folder in (root / images / name, root / labels / name):
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder}")
    return [PaletteFootage(name, root / images / name, root / labels / name) for name in names]


def sav(root: str | Path, *, kind: str = "manual") -> list[Footage]:
    """SA-V: ID_manual.json or ID_auto.json anywhere below `root`, beside ID.mp4 or a folder ID of frames.

    kind: "manual", "auto" or "both". Frames in folders are those of the video, 24 a second.
    """
    root = Path(root)
    if kind not in ("manual", "auto", "both"):
        raise DataError(f"sav: kind is manual, auto or both, not {kind!r}")
    found: list[Footage] = []
    for annotation in sorted(root.rglob("*_*.json")):
        name, _, which = annotation.stem.rpartition("_")
        if which not in ("manual", "auto") or kind not in (which, "both"):
            continue
        places = [annotation.with_name(name), annotation.with_name(f"{name}.mp4")]
        video = next((place for place in places if place.exists()), None)
        if video is None:
            raise DataError(f"{annotation} has neither a folder {name} nor {name}.mp4 beside it")
        found.append(SavFootage(annotation, video))
    if not found:
        raise DataError(f"no {'*' if kind == 'both' else kind} annotations (ID_{kind}.json) below {root}")
    return found


def sa1b(root: str | Path, *, min_iou: float = 0.0, max_area: float = 0.7) -> list[Footage]:
    """SA-1B: sa_N.jpg with sa_N.json below `root`.

    min_iou: masks with a lower `predicted_iou` are left out. max_area: so are those above this share of the picture.
    """
    root = Path(root)
    pictures = sorted(root.rglob("*.jpg"))
    if not pictures:
        raise DataError(f"no .jpg below {root}")
    missing = [path for path in pictures if not path.with_suffix(".json").exists()]
    if missing:
        raise DataError(f"{len(missing)} pictures below {root} have no .json, the first is {missing[0]}")

    def read(path: Path) -> list[Any]:
        tree = read_json(path.with_suffix(".json"))
        chosen = []
        for one in tree.get("annotations", []):
            size = one["segmentation"]["size"]
            sure = one.get("predicted_iou", 1.0) >= min_iou
            if sure and one.get("area", 0) <= max_area * size[0] * size[1]:
                chosen.append(one["segmentation"])
        return chosen

    return [CodedPicture(path, lambda path=path: read(path)) for path in pictures]  # type: ignore[misc]


def coco_instances(root: str | Path, *, annotations: str, images: str, crowds: bool = False) -> list[Footage]:
    """COCO instances: the JSON file `annotations` and the folder `images` below `root`; polygons or run lengths."""
    root = Path(root)
    tree = read_json(root / annotations)
    by_image: dict[Any, list[Any]] = {}
    for one in tree.get("annotations", []):
        if (crowds or not one.get("iscrowd")) and one.get("segmentation"):
            by_image.setdefault(one["image_id"], []).append(one["segmentation"])
    found: list[Footage] = []
    for image in tree.get("images", []):
        coded = by_image.get(image["id"])
        if coded:
            path = root / images / image["file_name"]
            if not path.exists():
                raise DataError(f"{root / annotations} names {image['file_name']}, but there is no {path}")
            found.append(CodedPicture(path, lambda coded=coded: coded, (image["height"], image["width"])))  # type: ignore[misc]
    if not found:
        raise DataError(f"{root / annotations} holds no annotated picture")
    return found


FOOTAGE: dict[str, Callable[..., list[Footage]]] = {
    "palette_videos": palette_videos,
    "sav": sav,
    "sa1b": sa1b,
    "coco_instances": coco_instances,
}


def read_json(path: Path) -> Any:
    """A JSON file. Raises DataError that names it."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read annotations {path}: {error}") from error


def read_video(path: Path, frames: Sequence[int]) -> list[np.ndarray]:
    """Some frames (H, W, 3) of a video file, by number. Raises DataError when it is damaged, short, or needs PyAV."""
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path}: reading video files needs PyAV: pip install 'sam2core[video]'") from error
    wanted, found = set(frames), {}
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    except av.FFmpegError as error:
        raise DataError(f"cannot read video {path}: {error}") from error
    if len(found) < len(wanted):
        raise DataError(f"{path} ends before frame {max(wanted)}")
    return [found[frame] for frame in frames]
