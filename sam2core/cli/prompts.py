"""Prompts for a video, from the command line and from JSON: object, frame, and points, a box or a mask."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.errors import hint

if TYPE_CHECKING:
    import numpy as np

PROMPTS = ("objects", "points", "boxes", "masks")


class OnFrame(click.ParamType):
    """A frame's number, a colon, and a point, a box or a path."""

    def __init__(self, inner: click.ParamType | None, name: str, example: str) -> None:
        self.inner, self.name, self.example = inner, name, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, Any]:
        if isinstance(value, tuple):
            return value
        frame, _, rest = value.partition(":")
        if not (frame.strip().isdecimal() and frame.isascii() and rest):
            self.fail(f"{value!r} is not {self.name}, such as {self.example}", param, ctx)
        return int(frame), self.inner.convert(rest, param, ctx) if self.inner else rest


class InOrder(click.Command):
    """Remembers in which order the prompts were written: those after an --object belong to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta["sam2core.order"] = [param.name for param in order if param.name in PROMPTS]
        return super().parse_args(ctx, args)


@dataclass
class Said:
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


class Prompts(dict[tuple[str, int], Said]):
    """All that was said, by object and frame, in the order in which it was said."""

    def add(self, object: str, frame: int, what: str, value: Any) -> None:
        one = self.setdefault((object, frame), Said(object, frame))
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


def spoken(order: list[str], given: Mapping[str, tuple], prompts: Prompts) -> None:
    """Add the prompts of the command line. Raises click.UsageError for an object of which nothing is said."""
    values = {name: iter(given[name]) for name in PROMPTS}
    current, silent = "1", False
    for name in order:
        value = next(values[name])
        if name == "objects":
            if silent:
                break
            current, silent = value, True
        else:
            what = {"points": "points", "boxes": "box", "masks": "mask"}[name]
            # run.json keeps what was said, and lies in another folder
            said = os.path.abspath(value[1]) if what == "mask" else value[1]
            try:
                prompts.add(current, value[0], what, said)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            silent = False
    if silent:
        raise click.UsageError(f"--object {current} says nothing: its --point, --box or --mask comes after it")


def written(path: str, prompts: Prompts) -> None:
    """Add the prompts of a JSON file. Raises ValueError for what they cannot mean."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        entries = document["prompts"]
        if not isinstance(entries, list):
            raise TypeError(f'"prompts" is {entries!r}')
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: a prompts file is {{"prompts": [{{"object", "frame", ...}}]}} ({error!r})') from None
    known = ("object", "frame", "points", "labels", "box", "mask")
    for at, entry in enumerate(entries):
        where = f"{path}: prompt {at}"
        if not isinstance(entry, dict) or not isinstance(entry.get("object"), str | int):
            raise ValueError(f'{where} needs an "object", a word or a number')
        if unknown := [key for key in entry if key not in known]:
            raise ValueError(f"{where} has {unknown[0]!r}; known are {', '.join(known)}{hint(unknown[0], known)}")
        frame = entry.get("frame")
        if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
            raise ValueError(f'{where} needs a "frame", a number from 0 on, not {frame!r}')
        said = {key: value for key, value in entry.items() if value is not None}  # null: not said
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
        name = str(entry["object"])
        for point, label in zip(points, labels):
            prompts.add(name, frame, "points", (*point, label))
        if box:
            prompts.add(name, frame, "box", box)
        if mask:
            folder = Path(path).absolute().parent
            prompts.add(name, frame, "mask", str(folder / mask) if isinstance(mask, str) else mask)


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(one, int | float) for one in value)


def read_mask(mask: str | Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A picture or COCO RLE as (H, W) bool: what is white, or has an object's number in files with a colour table.

    Raises:
        OSError: no such picture.
        ValueError: it is not of the video's (H, W).
    """
    import numpy as np

    from sam2core.cli.segment import read
    from sam2core.ops import rle

    if isinstance(mask, str):
        picture = read(mask)
        inside = np.asarray(picture) > 0 if picture.mode == "P" else np.asarray(picture.convert("L")) > 127
    else:
        inside = rle.decode(mask)
    if inside.shape != size:
        what = f"the mask {mask}" if isinstance(mask, str) else "the mask"
        raise ValueError(f"{what} is {inside.shape[1]} x {inside.shape[0]}, the video {size[1]} x {size[0]}")
    return inside
