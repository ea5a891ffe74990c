"""What a user says of the objects of a clip: object, frame, and points, a box or a mask; as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.storage import FileError, read_json, regular_file

if TYPE_CHECKING:
    import numpy as np

KEYS = ("object", "frame", "points", "labels", "box", "mask")
"""The keys of an entry of a prompts file."""


@dataclass
class UserPrompt:
    """What was said of one object on one frame, in the video's pixels and its numbers of frames."""

    object: str
    frame: int
    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: list[float] | None = None
    mask: str | dict[str, Any] | None = None
    """The path of a picture, or COCO RLE."""

    @property
    def where(self) -> str:
        return f"object {self.object!r} on frame {self.frame}"

    def document(self) -> dict[str, Any]:
        """The same as an entry of a prompts file."""
        entry: dict[str, Any] = {"object": self.object, "frame": self.frame}
        if self.points:
            entry |= {"points": self.points, "labels": self.labels}
        return entry | {key: value for key in ("box", "mask") if (value := getattr(self, key)) is not None}

    def keywords(self, size: tuple[int, int]) -> dict[str, Any]:
        """The same as keywords of `VideoSession.prompt`, the mask read. Raises ValueError when it has another size."""
        if self.mask is not None:
            return {"mask": read_mask(self.mask, size)}
        said: dict[str, Any] = {"points": self.points, "labels": self.labels} if self.points else {}
        return said if self.box is None else {**said, "box": self.box}


class Prompts(dict[tuple[str, int], UserPrompt]):
    """All that was said, by object and frame, in the order in which it was said."""

    def add(self, object: str, frame: int, what: str, value: Any) -> None:
        """Add a click of ``points`` (x, y, 1 or 0), a ``box`` or a ``mask``. Raises ValueError for a second one."""
        one = self.setdefault((object, frame), UserPrompt(object, frame))
        if what == "points":
            one.points.append([float(value[0]), float(value[1])])
            one.labels.append(int(value[2]))
        elif getattr(one, what) is not None:
            raise ValueError(f"{one.where} has more than one {what}: other objects have other names")
        else:
            setattr(one, what, list(value) if what == "box" else value)
        if one.mask is not None and (one.points or one.box is not None):
            raise ValueError(f"{one.where} has a mask, which stands alone: no points or box on the same frame")

    @property
    def objects(self) -> list[str]:
        return list(dict.fromkeys(object for object, _ in self))

    def document(self) -> list[dict[str, Any]]:
        return [one.document() for one in self.values()]

    def read(self, path: str) -> None:
        """Add the prompts of a JSON file. Raises ValueError, naming the file, for what they cannot mean."""
        try:
            entries = read_json(path)["prompts"]
            if not isinstance(entries, list):
                raise TypeError(f'"prompts" is {entries!r}')
        except (FileError, KeyError, TypeError) as error:
            kind = '{"prompts": [{"object", "frame", ...}]}'
            raise ValueError(f"{path}: a prompts file is {kind} ({error!r})") from None
        for at, entry in enumerate(entries):
            self._add_entry(entry, f"{path}: prompt {at}", Path(path).absolute().parent)

    def _add_entry(self, entry: Any, where: str, folder: Path) -> None:
        said = _checked(entry, where)
        name, frame = str(said["object"]), said["frame"]
        points = said.get("points", [])
        for point, label in zip(points, said.get("labels", [1] * len(points))):
            self.add(name, frame, "points", (*point, label))
        if box := said.get("box"):
            self.add(name, frame, "box", box)
        if mask := said.get("mask"):
            self.add(name, frame, "mask", str(folder / mask) if isinstance(mask, str) else mask)


def _checked(entry: Any, where: str) -> dict[str, Any]:
    """What an entry of a prompts file says, without what is null. Raises ValueError for what it cannot mean."""
    if not isinstance(entry, dict) or not isinstance(entry.get("object"), str | int):
        raise ValueError(f'{where} needs an "object", a word or a number')
    if unknown := [key for key in entry if key not in KEYS]:
        near = get_close_matches(unknown[0], KEYS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{where} has {unknown[0]!r}; known are {', '.join(KEYS)}{meant}")
    frame = entry.get("frame")
    if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
        raise ValueError(f'{where} needs a "frame", a number from 0 on, not {frame!r}')
    said = {key: value for key, value in entry.items() if value is not None}
    points, box, mask = said.get("points", []), said.get("box"), said.get("mask")
    if not (points or box or mask):
        raise ValueError(f"{where} says nothing: it needs points, a box or a mask")
    if not isinstance(points, list) or not all(_numbers(point, 2) for point in points):
        raise ValueError(f"{where}: points are [[x, y], ...], not {points!r}")
    if box and not _numbers(box, 4):
        raise ValueError(f"{where}: a box is [x0, y0, x1, y1], not {box!r}")
    if mask and not isinstance(mask, str | dict):
        raise ValueError(f"{where}: a mask is the path of a picture or COCO RLE, not {mask!r}")
    labels = said.get("labels", [1] * len(points))
    if not isinstance(labels, list) or len(labels) != len(points) or any(label not in (0, 1) for label in labels):
        raise ValueError(f"{where} needs one label per point, 1 inside or 0 outside")
    return said


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(one, int | float) for one in value)


def read_mask(mask: str | Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A mask as (H, W) bool: the path of a picture, with ``@ID`` after it where there are several objects, or COCO RLE.

    Raises ValueError for what `sam2core.media.labels.read_mask` refuses, and when it is not of the video's (H, W).
    """
    from sam2core.media import labels
    from sam2core.ops import rle

    what = "the mask"
    if isinstance(mask, str):
        path, chosen = labels.split_choice(mask)
        what = f"the mask {path}"
        inside = labels.read_mask(regular_file(path), chosen)
    else:
        inside = rle.decode(mask)
    if inside.shape != size:
        raise ValueError(f"{what} is {inside.shape[1]} x {inside.shape[0]}, the video {size[1]} x {size[0]}")
    return inside
