"""What a user says of the objects of a video: object, frame, and points, a box or a mask; as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.storage import regular_file

if TYPE_CHECKING:
    import numpy as np

KEYS = ("object", "category", "frame", "points", "labels", "box", "mask", "score")
"""The keys of an entry of a prompts file, beside the file that it speaks of."""


@dataclass
class UserPrompt:
    """What was said of one object on one frame, in the video's pixels and its numbers of frames."""

    object: str
    frame: int
    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: list[float] | None = None
    mask: str | dict[str, Any] | None = None
    """The path of an image, or COCO RLE."""
    category: str = ""
    """The object's class, where it was said."""
    score: float | None = None
    """How sure a detector was."""

    @property
    def where(self) -> str:
        return f"object {self.object!r} on frame {self.frame}"

    def document(self) -> dict[str, Any]:
        """The same as an entry of a prompts file."""
        entry: dict[str, Any] = {"object": self.object, "frame": self.frame}
        if self.points:
            entry |= {"points": self.points, "labels": self.labels}
        entry |= {key: value for key in ("box", "mask", "score") if (value := getattr(self, key)) is not None}
        return entry | ({"category": self.category} if self.category else {})

    def keywords(self, size: tuple[int, int]) -> dict[str, Any]:
        """The same as keywords of `VideoSession.prompt`, the mask read. Raises ValueError when it has another size."""
        if self.mask is not None:
            return {"mask": read_mask(self.mask, size)}
        said: dict[str, Any] = {"points": self.points, "labels": self.labels} if self.points else {}
        return said if self.box is None else {**said, "box": self.box}


class Prompts(dict[tuple[str, int], UserPrompt]):
    """All that was said, by object and frame, in the order in which it was said."""

    def add(self, object: str, frame: int, what: str, value: Any, category: str = "") -> None:
        """Add a click of ``points`` (x, y, 1 or 0), a ``box`` or a ``mask``.

        Raises ValueError for a second one, and for an object of two categories.
        """
        one = self.setdefault((object, frame), UserPrompt(object, frame))
        known = self.categories.get(object, category)
        if category and known != category:
            raise ValueError(f"object {object!r} is a {known!r} and a {category!r}: an object has one category")
        one.category = category or known
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

    @property
    def categories(self) -> dict[str, str]:
        """The class of each object of which one was said."""
        return {object: one.category for (object, _), one in self.items() if one.category}

    def document(self) -> list[dict[str, Any]]:
        return [one.document() for one in self.values()]

    def add_entry(self, entry: Any, where: str, folder: Path) -> None:
        """Add an entry of a prompts file in `folder`. Raises ValueError that says where, for what it cannot mean."""
        said = _checked(entry, where)
        name, frame, category = str(said["object"]), said["frame"], str(said.get("category", ""))
        points = said.get("points", [])
        for point, label in zip(points, said.get("labels", [1] * len(points))):
            self.add(name, frame, "points", (*point, label), category)
        if box := said.get("box"):
            self.add(name, frame, "box", box, category)
        if mask := said.get("mask"):
            self.add(name, frame, "mask", str(folder / mask) if isinstance(mask, str) else mask, category)
        if (score := said.get("score")) is not None:
            self[name, frame].score = float(score)


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
        raise ValueError(f"{where}: a mask is the path of an image or COCO RLE, not {mask!r}")
    if not isinstance(said.get("score", 0.0), int | float):
        raise ValueError(f"{where}: a score is a number, not {said['score']!r}")
    labels = said.get("labels", [1] * len(points))
    if not isinstance(labels, list) or len(labels) != len(points) or any(label not in (0, 1) for label in labels):
        raise ValueError(f"{where} needs one label per point, 1 inside or 0 outside")
    return said


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(one, int | float) for one in value)


def read_mask(mask: str | Mapping[str, Any], size: tuple[int, int], *, of: str = "video") -> np.ndarray:
    """A mask as (H, W) bool: the path of an image, with ``@ID`` after it where there are several objects, or COCO RLE.

    Raises ValueError for what `sam2core.media.labels.read_mask` refuses, and when it is not of the (H, W) of what it
    is a mask `of`.
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
        raise ValueError(f"{what} is {inside.shape[1]} x {inside.shape[0]}, the {of} {size[1]} x {size[0]}")
    return inside
