"""Pictures for people and masks for programs: overlays, mp4, mask PNGs, COCO RLE, cut-outs. Needs no model.

`overlay` draws. The writers take one frame after the other, in any order but `VideoWriter`, and keep none of them, so
their memory does not depend on the video's length. All are context managers. A file is written under another name and
renamed when it is whole; what spans all frames (mp4, JSON) is made whole however the block is left, by an error or an
interruption too.
"""

from __future__ import annotations

import colorsys
import json
import os
import shutil
from collections.abc import Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image

from sam2core.media.drawing import draw_box, draw_mask, draw_name, draw_point
from sam2core.media.labels import davis
from sam2core.older import renamed
from sam2core.ops import rle

# Apart from each other and from most photographs, also for the colour-blind; the golden angle goes on from there.
_BRIGHT = (
    (30, 144, 255),
    (255, 111, 0),
    (0, 191, 130),
    (233, 30, 140),
    (255, 200, 0),
    (130, 90, 255),
    (0, 200, 220),
    (220, 40, 40),
)
# Okabe and Ito, "Color Universal Design" (2008), without its black
_COLORBLIND = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
PALETTES = ("bright", "davis", "colorblind", "pastel")
FORMAT = "sam2core.masks.1"
"""What the first key of a `RleWriter`'s document says."""
Self = TypeVar("Self", bound="Writer")


def palette(count: int, name: str = "bright") -> np.ndarray:
    """Return `count` colours easy to tell apart, (count, 3) uint8; the first ones are the same for every `count`.

    Args:
        name: ``"bright"``, ``"davis"`` (those of DAVIS and PASCAL VOC), ``"colorblind"`` (Okabe and Ito), ``"pastel"``.

    Raises:
        ValueError: no palette of that name.
    """
    if name not in PALETTES:
        raise ValueError(f"palettes are {', '.join(PALETTES)}, not {name!r}")
    if name == "davis":
        return davis()[1 + np.arange(count) % 255]
    first = {"bright": _BRIGHT, "colorblind": _COLORBLIND, "pastel": ()}[name]
    colors: list[tuple[int, ...]] = list(first[:count])
    for index in range(len(colors), count):
        hue = (0.61803398875 * index) % 1.0
        saturation = 0.3 + 0.15 * (index % 2) if name == "pastel" else 0.55 + 0.4 * (index % 2)
        colors.append(tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, 1.0)))
    return np.array(colors, dtype=np.uint8).reshape(count, 3)


def overlay(
    image: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray] = (),
    *,
    colors: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    opacity: float = 0.45,
    contour: float | None = None,
    points: np.ndarray | Sequence = (),
    labels: np.ndarray | Sequence | None = None,
    boxes: np.ndarray | Sequence = (),
    box_colors: np.ndarray | None = None,
) -> np.ndarray:
    """Draw masks, their contours and names, and the prompts over a photograph.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        masks: (K, H, W) bool, later ones above earlier ones.
        colors: (K, 3) uint8; `palette(K)` when not given.
        names: K words, each written where its mask is widest, below a click that is there; empty masks go without, and
            so do pictures too small for the word.
        opacity: of the mask's colour, 0 to 1.
        contour: width of the outline in pixels, 0 for none; by default in proportion to the image.
        points: (P, 2) x, y in pixels.
        labels: (P,) 1 inside (green), 0 outside (red); all 1 when not given.
        boxes: (N, 4) x0, y0, x1, y1.
        box_colors: (N, 3) uint8; by default the masks' colours where there is one box per mask, white otherwise.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ValueError: sizes or types that do not fit together.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"the picture to draw on is (H, W, 3) or (H, W) uint8, not {image.shape} of {image.dtype}")
    canvas = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()
    height, width = canvas.shape[:2]
    masks = [np.asarray(mask, dtype=bool) for mask in masks]
    for mask in masks:
        if mask.shape != (height, width):
            raise ValueError(f"a mask of {mask.shape} does not lie over a picture of {(height, width)} (height, width)")
    colors = palette(len(masks)) if colors is None else np.asarray(colors)
    if colors.shape != (len(masks), 3):
        raise ValueError(f"{len(masks)} masks want colours of shape ({len(masks)}, 3), not {colors.shape}")
    if names is not None and len(names) != len(masks):
        raise ValueError(f"{len(masks)} masks want as many names, not {len(names)}")
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    if box_colors is None:
        box_colors = colors if len(boxes) == len(masks) else np.full((len(boxes), 3), 255)
    if len(box_colors) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes want as many colours, not {len(box_colors)}")
    points = np.asarray(points, dtype=np.float32).reshape(-1, 2)
    labels = np.ones(len(points)) if labels is None else np.asarray(labels).reshape(-1)
    if len(labels) != len(points):
        raise ValueError(f"{len(points)} points want as many labels, not {len(labels)}")

    unit = max(0.5, min(height, width) / 300)
    stroke = 1.6 * unit if contour is None else float(contour)
    for mask, color in zip(masks, colors):
        draw_mask(canvas, mask, color, opacity, stroke)
    for box, color in zip(boxes, box_colors):
        draw_box(canvas, box, color, unit)
    for point, label in zip(points, labels):
        draw_point(canvas, point, bool(label > 0), 4.5 * max(0.75, unit))
    for mask, name in zip(masks, names or ()):
        draw_name(canvas, mask, str(name), round(max(11.0, 9 * unit)), clicks=points, reach=6 * max(0.75, unit))
    return canvas


# writers


class Writer:
    """What all writers have in common: they are context managers, and finish when the block is left."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to finish: every frame has a file of its own."""


class FileWriter(Writer):
    """A video file that PyAV writes, and that has its name only once it is whole; without any frame there is none."""

    path: Path
    count: int
    """Frames written so far."""
    _unfinished: Path
    _container: Any
    _stream: Any

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.count:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if self.count:
                os.replace(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)


class VideoWriter(FileWriter):
    """An mp4 that plays everywhere: H.264, yuv420p, its index in front.

    Sides of odd length get one more row or column, which repeats the last. The file has its name only once it is
    whole; without any frame there is none. Needs PyAV, the extra ``sam2core[video]``.

    Args:
        path: the file; one that is there is replaced in the end.
        size: (H, W) of every frame.
        fps: frames per second; times given to `write` take precedence.
        quality: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        ValueError: a rate that is not positive.
    """

    def __init__(
        self, path: str | os.PathLike[str], size: tuple[int, int], *, fps: float = 25.0, quality: float = 20
    ) -> None:
        try:
            import av
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                'writing mp4 needs PyAV, which is not installed: pip install "sam2core[video]" '
                "(mask PNGs, COCO RLE and cut-outs go without)",
                name=missing.name,
            ) from None
        if not 0 < fps < 100_000:
            raise ValueError(f"a video has more than 0 frames per second, not {fps}")
        self.path = Path(path)
        self.size = size
        self.count = 0
        self._av = av
        self._unfinished = self.path.with_name(self.path.name + ".part")
        self._rate = Fraction(fps).limit_denominator(10_000)
        self._clock = Fraction(1, 90_000)
        self._latest = -1
        place = str(self._unfinished.absolute())  # FFmpeg takes the beginning of '12:30/overlay.mp4' for a protocol
        self._container = av.open(place, "w", format="mp4", options={"movflags": "faststart"})
        stream: Any = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = self._clock
        # x264's macroblock tree is not the same twice for small pictures: it reads memory that nobody wrote
        stream.options = {"crf": str(quality), "preset": "veryfast", "x264-params": "mbtree=0"}
        self._stream = stream

    def write(self, frame: np.ndarray, *, time: float | None = None) -> None:
        """Add a frame (H, W, 3) uint8, shown from `time` seconds on (default: by the rate).

        Raises:
            ValueError: another size or type.
        """
        height, width = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"this video has frames ({height}, {width}, 3) of uint8, not {frame.shape} of {frame.dtype}"
            )
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        seconds = self.count / self._rate if time is None else Fraction(time)
        self._latest = max(self._latest + 1, round(seconds / self._clock))
        picture.pts, picture.time_base = self._latest, self._clock
        self._container.mux(self._stream.encode(picture))
        self.count += 1


class PaletteWriter(Writer):
    """Mask files as DAVIS has them: ``FOLDER/NAME.png``, 8 bits with a colour table, a pixel's value is its object's
    number, 0 the background.

    Args:
        folder: made when the first frame is written.
        colors: (K, 3) uint8, the colours of objects 1 to K; those of DAVIS when not given.
    """

    def __init__(self, folder: str | os.PathLike[str], *, colors: np.ndarray | None = None) -> None:
        self.folder = Path(folder)
        self._colors = davis()
        if colors is not None:
            self._colors[1 : 1 + len(colors)] = colors[:255]

    def write(self, name: str, numbers: np.ndarray) -> None:
        """Write a frame of object numbers (H, W), integers from 0 to 255. Raises ValueError for others."""
        numbers = np.asarray(numbers)
        if numbers.ndim != 2 or numbers.dtype.kind not in "bui":
            raise ValueError(f"object numbers are a (H, W) array of integers, not {numbers.shape} of {numbers.dtype}")
        if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
            raise ValueError(f"8 bits hold the objects 1 to 255, not {numbers.max()}; MaskWriter has no such limit")
        picture = Image.fromarray(numbers.astype(np.uint8))
        picture.putpalette(self._colors.tobytes())
        _save(picture, self.folder / f"{name}.png")


class MaskWriter(Writer):
    """Mask files per object: ``FOLDER/OBJECT/NAME.png``, 255 inside, 0 outside.

    Args:
        folder: made, with its folders, when the first frame is written.
        objects: what the objects are called, in the order of the masks.

    Raises:
        ValueError: a word that cannot name a folder.
    """

    def __init__(self, folder: str | os.PathLike[str], objects: Sequence[Hashable]) -> None:
        self.folders = [Path(folder) / folder_name(one) for one in objects]

    def write(self, name: str, masks: np.ndarray | Sequence[np.ndarray]) -> None:
        """Write a frame's masks (K, H, W) bool. Raises ValueError when there are not as many as objects."""
        _check_count(masks, self.folders)
        for folder, mask in zip(self.folders, masks):
            _save(Image.fromarray(np.asarray(mask, dtype=bool).astype(np.uint8) * 255), folder / f"{name}.png")


class CutoutWriter(MaskWriter):
    """Pictures of the objects alone, ``FOLDER/OBJECT/NAME.png``: of the frame's size, transparent outside the mask.

    Arguments and errors are those of `MaskWriter`.
    """

    def write(  # type: ignore[override]
        self, name: str, frame: np.ndarray, masks: np.ndarray | Sequence[np.ndarray]
    ) -> None:
        """Cut a frame (H, W, 3) uint8 by its masks (K, H, W). Raises ValueError when they do not fit together."""
        _check_count(masks, self.folders)
        for folder, mask in zip(self.folders, masks):
            inside = np.asarray(mask, dtype=bool)
            if frame.dtype != np.uint8 or frame.shape != (*inside.shape, 3):
                raise ValueError(f"a mask of {inside.shape} cuts no frame of {frame.shape} of {frame.dtype}")
            alpha = inside[..., None].astype(np.uint8)
            _save(Image.fromarray(np.concatenate([frame * alpha, alpha * 255], axis=2)), folder / f"{name}.png")


class RleWriter(Writer):
    """All masks in one JSON document, as COCO run-length codes, with the scores of every frame.

    ``{"format": "sam2core.masks.1", "video": {"height", "width", ...}, "objects": [{"number", "id"}],
    "frames": {"0": {"name": "00000", "objects": {"ID": {"iou", "object score", "segmentation"}}}, ...}, "complete":
    true}``

    `segmentation` is what pycocotools reads; `object_score` is a logit, above 0 the object is in the picture. Every
    frame is a line of its own, so that `RleFrames` can read them one at a time. ``complete`` is false when the block
    was left by an error or an interruption. Until then the document has its name with ``.part`` added; after a crash,
    it is there that its frames are, each whole.

    Args:
        path: the document.
        size: the video's (H, W).
        objects: ids, in the order of the rows given to `write`; they must be strings or integers.
        video: more to say of the video, as JSON.
        resume: go on with the document that an earlier writer left, after its first so many frames.

    Raises:
        ValueError: ids that are the same as text; fewer frames there than `resume`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        objects: Sequence[Hashable],
        *,
        video: Mapping[str, Any] | None = None,
        resume: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = [str(one) for one in objects]
        if len(set(self.objects)) < len(objects):
            raise ValueError(f"object ids must differ as text: {', '.join(self.objects)}")
        self.count = 0
        """Frames written so far, those of an earlier writer included."""
        self._unfinished = self.path.with_name(self.path.name + ".part")
        if resume is not None:
            self._file = self._reopen(resume)
            return
        about = {
            "format": FORMAT,
            "video": {"height": size[0], "width": size[1], **(video or {})},
            "objects": [{"number": number, "id": one} for number, one in enumerate(self.objects, 1)],
        }
        self._file = self._unfinished.open("w+b")
        self._file.write(json.dumps(about)[:-1].encode() + b', "frames": {')
        self._file.flush()

    def _reopen(self, wanted: int) -> BinaryIO:
        """The document of an earlier writer, cut after so many frames."""
        if not self._unfinished.exists():
            spare = self._unfinished.with_name(self._unfinished.name + ".new")
            shutil.copyfile(self.path, spare)
            os.replace(spare, self._unfinished)
        file = self._unfinished.open("r+b")
        end, last = 0, b""
        for index, line in enumerate(file):  # line 0 opens the document
            if index > wanted or index and _parse(line) is None:
                break
            end, last, self.count = end + len(line), line, index
        if not end or self.count < wanted:
            file.close()
            raise ValueError(f"{self._unfinished} has {self.count} frames, not the {wanted} to go on after")
        end -= len(last) - len(last.rstrip(b",\r\n"))  # comma and line break come with the next frame
        file.truncate(end)
        file.seek(end)
        return file

    def write(
        self,
        frame: int,
        name: str,
        masks: np.ndarray | Sequence[np.ndarray],
        *,
        iou: Sequence[float],
        object_score: Sequence[float],
        objects: Sequence[Hashable] | None = None,
    ) -> dict[str, Any]:
        """Add a frame: masks (K, H, W) bool with a score each; of `objects`, when it has not all of them.

        Returns what is written of it, as `RleFrames` will read it.
        """
        objects = self.objects if objects is None else [str(one) for one in objects]
        _check_count(masks, objects)
        entry: dict[str, Any] = {
            "name": name,
            "objects": {
                one: {
                    "iou": round(float(score), 4),
                    "object_score": round(float(logit), 4),
                    "segmentation": rle.encode(np.asarray(mask, dtype=bool)),
                }
                for one, mask, score, logit in zip(objects, masks, iou, object_score)
            },
        }
        line = f"{json.dumps(str(frame))}: {json.dumps(entry)}"
        self._file.write((b",\n" if self.count else b"\n") + line.encode())
        self._file.flush()
        self.count += 1
        return entry

    def frames(self) -> RleFrames:
        """What was written so far."""
        self._file.flush()
        return RleFrames(self._unfinished)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.write(b'\n}, "complete": ' + json.dumps(kind is None).encode() + b"}\n")
        os.replace(self._unfinished, self.path)


class RleFrames(Mapping[int, dict[str, Any]]):
    """The frames of a `RleWriter`'s document, finished or not, read one at a time: number -> what was written of it.

    Raises:
        OSError: no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._offsets: dict[int, int] = {}
        with self._path.open("rb") as file:
            offset = len(file.readline())
            for line in file:
                found = _parse(line)
                if found is not None:
                    self._offsets[found[0]] = offset
                offset += len(line)

    def __getitem__(self, frame: int) -> dict[str, Any]:
        offset = self._offsets[frame]
        with self._path.open("rb") as file:
            file.seek(offset)
            found = _parse(file.readline())
        if found is None:
            raise ValueError(f"{self._path} changed while it was read")
        return found[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


def _parse(line: bytes) -> tuple[int, dict[str, Any]] | None:
    """A frame's line; None for others, and for one that breaks off."""
    if not line.startswith(b'"'):
        return None
    try:
        ((frame, entry),) = json.loads(b"{" + line.rstrip(b",\r\n") + b"}").items()
    except ValueError:
        return None
    return int(frame), {**entry, "objects": {name: renamed(one) for name, one in entry["objects"].items()}}


def folder_name(word: Hashable) -> str:
    """An object's id as the name of a folder, on every system. Raises ValueError when it cannot be one."""
    text = str(word)
    plain = text.isprintable() and not set(text) & set('/\\:*?"<>|')
    if not plain or not 0 < len(text) <= 100 or text.strip(". ") != text:
        raise ValueError(
            f'{text!r} cannot name a folder: 1 to 100 characters but / \\ : * ? " < > |, no point or blank at an end'
        )
    return text


def _check_count(masks: Any, objects: Sequence[Any]) -> None:
    if len(masks) != len(objects):
        raise ValueError(f"{len(objects)} objects want as many masks, not {len(masks)}")


def _save(picture: Image.Image, path: Path) -> None:
    """Write a PNG under another name, and rename it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        picture.save(unfinished, format="PNG")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
