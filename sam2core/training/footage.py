"""Labelled footage on disk, read when it is asked for: SA-1B, SA-V, DAVIS, MOSE, YouTube-VOS, COCO.

A reader lists a folder and returns one `Footage` per video or picture; nothing is decoded before a clip is sampled, and
then only the frames and the objects that the clip needs. Errors name the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sam2core.data.folders import IMAGE_FOLDERS, MASK_FOLDERS, video_places
from sam2core.data.pictures import DataError, read_ids, read_json, read_picture
from sam2core.ops import rle
from sam2core.training.clips import IMAGE_SUFFIXES

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
        return [int(value) for value in np.unique(read_ids(self.labels[frame])) if value not in (0, 255)]

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        if not self.folders:
            labels = read_ids(self.labels[frame])
            return np.stack([labels == number for number in ids])
        name = self.labels[frame].name
        found = {n: read_ids(self.folders[n] / name) > 0 for n in ids if (self.folders[n] / name).exists()}
        if found:
            shape = next(iter(found.values())).shape
        else:
            with Image.open(self.frames[frame]) as picture:
                shape = (picture.height, picture.width)
        return np.stack([found.get(number, np.zeros(shape, dtype=bool)) for number in ids])


class Documents:
    """JSON files as they are asked for; the last few are kept, for a data set may have millions."""

    def __init__(self, most: int = 8):
        self.most = most
        self.held: dict[Path, Any] = {}

    def __call__(self, path: Path) -> Any:
        """What a file holds. Raises DataError that names it."""
        if path not in self.held:
            document = read_json(path)
            while len(self.held) >= self.most:
                del self.held[next(iter(self.held))]
            self.held[path] = document
        return self.held[path]

    def __reduce__(self) -> tuple[type[Documents], tuple[int]]:
        return Documents, (self.most,)  # a worker reads its own


class SavFootage(Footage):
    """A video of SA-V: an mp4 or a folder of its frames, and the masklets of one JSON file."""

    def __init__(self, annotation: Path, video: Path, documents: Documents):
        self.source = str(annotation)
        self.annotation, self.video, self.documents = annotation, video, documents

    @property
    def masklet(self) -> list[list[Any]]:
        """The coded masks, frame by frame and in each object by object."""
        tree = self.documents(self.annotation)
        if not isinstance(tree, dict) or not tree.get("masklet"):
            raise DataError(f"{self.annotation} holds no 'masklet'")
        return tree["masklet"]

    @cached_property
    def files(self) -> list[Path]:
        return sorted(path for path in self.video.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)

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
        with naming(self.annotation):
            return [number for number, coded in enumerate(self.masklet[frame]) if coded and rle.area(coded)]

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        row = self.masklet[frame]
        with naming(self.annotation):
            found = {n: rle.decode(row[n]) for n in ids if n < len(row) and row[n]}
        shape = next((mask.shape for mask in found.values()), None) or self._shape()
        return np.stack([found.get(number, np.zeros(shape, dtype=bool)) for number in ids])

    def _shape(self) -> tuple[int, ...]:
        with naming(self.annotation):
            return next(tuple(coded["size"]) for row in self.masklet for coded in row if coded)


class CodedPicture(Footage):
    """A picture of SA-1B or COCO with coded masks, which are decoded one by one when they are asked for."""

    length = 1

    def __init__(self, image: Path, coded: Sequence[Any] = (), size: tuple[int, int] | None = None):
        self.source = str(image)
        self.image, self._coded, self.size = image, coded, size

    @property
    def coded(self) -> Sequence[Any]:
        """Run lengths or, with a `size`, polygons."""
        return self._coded

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        return [read_picture(self.image) for _ in frames]

    def objects(self, frame: int) -> list[int]:
        return list(range(len(self.coded)))

    def masks(self, frame: int, ids: Sequence[int]) -> np.ndarray:
        coded = self.coded
        with naming(self.image):
            return np.stack([decode(coded[number], self.size) for number in ids])


class Sa1bPicture(CodedPicture):
    """A picture of SA-1B; what is known of its masks lies beside it and is read when it is asked for."""

    def __init__(self, image: Path, documents: Documents, min_iou: float, max_area: float):
        super().__init__(image)
        self.documents, self.min_iou, self.max_area = documents, min_iou, max_area

    @property
    def coded(self) -> Sequence[Any]:
        tree = self.documents(self.image.with_suffix(".json"))
        with naming(self.image.with_suffix(".json")):
            return [one["segmentation"] for one in tree.get("annotations", []) if self._wanted(one)]

    def _wanted(self, one: dict[str, Any]) -> bool:
        height, width = one["segmentation"]["size"]
        return one.get("predicted_iou", 1.0) >= self.min_iou and one.get("area", 0) <= self.max_area * height * width


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What is wrong with a coded mask becomes a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(f"a mask of {path}: {type(error).__name__}: {error}") from error


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
    root: str | Path, *, images: str = "", labels: str = "", videos: Sequence[str] = ()
) -> list[Footage]:
    """DAVIS, MOSE, YouTube-VOS, PUMaVOS: pictures and palette PNGs, or PNGs in a folder per object.

    images, labels: folders of a folder per video, below `root`; without them `ops.folders` says where they may be.
    videos: only these. Frames without labels are left out. Raises DataError for a folder that is missing or holds
    nothing.
    """
    root = Path(root)
    shown = _places(root, images, IMAGE_FOLDERS)
    marked = _places(root, labels, MASK_FOLDERS)
    for name in videos or marked:
        for places, what in ((shown, images or " or ".join(IMAGE_FOLDERS)), (marked, labels or "masks")):
            if name not in places:
                raise DataError(f"there is no folder {name} of {what} in {root}")
    return [PaletteFootage(name, shown[name], marked[name]) for name in videos or marked]


def _places(root: Path, folder: str, kinds: Sequence[str]) -> dict[str, Path]:
    """Video name -> its folder. Raises DataError when there is none."""
    if folder and not (root / folder).is_dir():
        raise DataError(f"there is no folder {root / folder}")
    found = video_places(root / folder, (), bare=True) if folder else video_places(root, kinds)
    if not found:
        raise DataError(f"{root / folder} holds no folder of a video{'' if folder else ' in ' + ' or '.join(kinds)}")
    return found


def sav(root: str | Path, *, kind: str = "manual") -> list[Footage]:
    """SA-V: ID_manual.json or ID_auto.json anywhere below `root`, beside ID.mp4 or a folder ID of frames.

    kind: "manual", "auto" or "both". Frames in folders are those of the video, 24 a second.
    """
    root = Path(root)
    if kind not in ("manual", "auto", "both"):
        raise DataError(f"sav: kind is manual, auto or both, not {kind!r}")
    found: list[Footage] = []
    documents = Documents()
    for annotation in sorted(root.rglob("*_*.json")):
        name, _, which = annotation.stem.rpartition("_")
        if which not in ("manual", "auto") or kind not in (which, "both"):
            continue
        places = [annotation.with_name(name), annotation.with_name(f"{name}.mp4")]
        video = next((place for place in places if place.exists()), None)
        if video is None:
            raise DataError(f"{annotation} has neither a folder {name} nor {name}.mp4 beside it")
        found.append(SavFootage(annotation, video, documents))
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

    documents = Documents()
    return [Sa1bPicture(path, documents, min_iou, max_area) for path in pictures]


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
            found.append(CodedPicture(path, coded, (image["height"], image["width"])))
    if not found:
        raise DataError(f"{root / annotations} holds no annotated picture")
    return found


FOOTAGE: dict[str, Callable[..., list[Footage]]] = {
    "palette_videos": palette_videos,
    "sav": sav,
    "sa1b": sa1b,
    "coco_instances": coco_instances,
}


def read_video(path: Path, frames: Sequence[int]) -> list[np.ndarray]:
    """Some frames (H, W, 3) of a video file, by number; it is decoded from the key frame before the first of them.

    Raises DataError when it is damaged, short, or needs PyAV.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path}: reading video files needs PyAV: pip install 'sam2core[video]'") from error
    wanted, found = set(frames), {}
    try:
        with av.open(str(Path(path).absolute())) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            times = sorted(packet.pts for packet in packets if not packet.is_discard)
            if not wanted or max(wanted) >= len(times):
                raise DataError(f"{path} has {len(times)} frames, asked for {sorted(wanted)}")
            numbers = {times[number]: number for number in wanted}
            # the key frame is sought by when it is decoded, which is earlier than when it is shown
            keys = [(p.pts, p.dts) for p in packets if p.is_keyframe and p.pts <= times[min(wanted)]]
            container.seek(max(keys)[1] if keys else times[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in numbers:
                    found[numbers[frame.pts]] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    except (av.FFmpegError, IndexError) as error:  # no stream of pictures is an IndexError
        raise DataError(f"cannot read video {path}: {error}") from error
    if len(found) < len(wanted):
        raise DataError(f"{path} ends before frame {min(wanted - found.keys())}")
    return [found[frame] for frame in frames]
