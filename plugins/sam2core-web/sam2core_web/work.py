"""One opened image or video: its objects, what was said of them, and their masks. Runs in the model's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sam2core.media.frames import FrameSource
from sam2core.media.images import as_bytes
from sam2core.media.render import palette
from sam2core.ops import rle
from sam2core.predictors.history import History
from sam2core.predictors.results import FrameResult
from sam2core.predictors.session import VideoSession
from sam2core_web.engine import Engine
from sam2core_web.media import Refused

Leg = tuple[int, "int | None", str]
"""First frame, end (exclusive; None: to the end), direction."""


class Answer(NamedTuple):
    """A mask on one frame, as run lengths; what is kept of every tracked frame."""

    segmentation: dict[str, Any]
    area: int
    iou: float
    object_score: float | None


@dataclass(frozen=True)
class Said:
    """All that was said of an object on a frame, in the image's pixels."""

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None

    def arguments(self) -> dict[str, Any]:
        """Keywords of `prompt` and `predict`."""
        found: dict[str, Any] = {}
        if self.points:
            found |= {"points": [list(xy) for xy in self.points], "labels": list(self.labels)}
        if self.box is not None:
            found["box"] = list(self.box)
        return found


@dataclass(frozen=True)
class Thing:
    """An object: how it is called and drawn, what was said of it, and its masks, frame by frame."""

    name: str
    color: str
    said: dict[int, Said] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)


class Work:
    """What images and videos have in common. Prompts raise ValueError, and change nothing, when they make no sense."""

    kind = ""

    def __init__(self, engine: Engine, size: tuple[int, int], path: Path | None = None) -> None:
        self.engine = engine
        self.size = size
        self.path = path
        """The file to remove in the end."""
        self.closed = False
        self.things: dict[int, Thing] = {}
        self.fps: float | None = None
        self.frames = 1
        self.legs: list[Leg] = []
        """What is left of the last run."""
        self.history: History[int, Thing] = History()
        """What undo and redo bring back."""

    @property
    def undoable(self) -> int:
        return self.history.undoable

    @property
    def redoable(self) -> int:
        return self.history.redoable

    def frame(self, number: int) -> np.ndarray:
        """A frame as (H, W, 3) uint8, as people see it; from any thread."""
        return as_bytes(self.values(number))

    def time(self, number: int) -> float | None:
        """When a frame is shown, in seconds after the first; None where nothing says so."""
        return None

    def values(self, number: int) -> np.ndarray:
        """A frame with its file's own values, as the model sees it; from any thread."""
        raise NotImplementedError

    def prompt(self, number: int, frame: int, said: Said, name: str | None, color: str | None) -> None:
        """Say what an object is on a frame; a new number adds an object."""
        self._check_frame(frame)
        if said.mask is not None and (said.points or said.box):
            raise ValueError("a mask stands alone: give points and box in another call")
        if said.mask is None and not said.points and said.box is None:
            raise ValueError("nothing is said of the object: give points, a box or a mask")
        if said.labels and len(said.labels) != len(said.points):
            raise ValueError(f"{len(said.points)} points want as many labels, not {len(said.labels)}")
        if said.points and not said.labels:
            said = replace(said, labels=(1,) * len(said.points))
        before = self.things.get(number)
        answers = self._ask(number, frame, said)
        old = before or Thing(name or f"Object {number}", color or _color(number))
        self.history.remember(self.things, number)
        self.things[number] = Thing(
            name or old.name, color or old.color, {**old.said, frame: said}, {**old.answers, **answers}
        )

    def undo(self) -> int | None:
        """Take the latest prompt or removal back: its object is as it was before, masks included. Its number."""
        if not self.undoable:
            return None
        self._took_back()
        return self._swapped(self.history.undo)

    def redo(self) -> int | None:
        """Do again what `undo` took back last, until there is another prompt or removal. The object's number."""
        if not self.redoable:
            return None
        self._gave_back()
        return self._swapped(self.history.redo)

    def _swapped(self, swap: Callable[[dict[int, Thing]], int | None]) -> int | None:
        """Undo or redo; names and colours are not part of the history."""
        before = dict(self.things)
        number = swap(self.things)
        if number in before and number in self.things:
            now = before[number]
            self.things[number] = replace(self.things[number], name=now.name, color=now.color)
        return number

    def describe(self, number: int, name: str | None, color: str | None) -> None:
        thing = self._thing(number)
        self.things[number] = replace(thing, name=name or thing.name, color=color or thing.color)

    def remove(self, number: int) -> None:
        """Remove an object, until `undo`."""
        self._thing(number)
        self._remove(number)
        self.history.remember(self.things, number)
        del self.things[number]

    def preview(self, frame: int, xy: tuple[float, float]) -> Answer:
        """What a click would give; nothing is remembered."""
        raise NotImplementedError

    def everything(self, frame: int, points_per_side: int | None) -> list[dict[str, Any]]:
        """Every mask on a frame, large ones first."""
        generator = self.engine.automask
        if points_per_side is not None:
            generator = self.engine.grid(points_per_side)
        found = sorted(generator.generate(self.values(frame)), key=lambda one: -one.area)
        return [{"segmentation": one.coco, "area": one.area, "iou": one.iou, "box": one.box} for one in found]

    def close(self) -> None:
        self.closed = True
        self.things.clear()
        self.history.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _ask(self, number: int, frame: int, said: Said) -> dict[int, Answer]:
        raise NotImplementedError

    def _took_back(self) -> None:
        """The library's share of `undo`."""

    def _gave_back(self) -> None:
        """The library's share of `redo`."""

    def _remove(self, number: int) -> None:
        """The library's share of `remove`."""

    def _thing(self, number: int) -> Thing:
        if number not in self.things:
            known = ", ".join(map(str, self.things)) or "none"
            raise Refused(f"there is no object {number}; known objects: {known}", 404)
        return self.things[number]

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < self.frames:
            raise ValueError(f"there is no frame {frame}: frames are 0 to {self.frames - 1}")


class ImageWork(Work):
    """An image, encoded once."""

    kind = "image"

    def __init__(self, engine: Engine, picture: np.ndarray, path: Path | None = None) -> None:
        super().__init__(engine, (picture.shape[0], picture.shape[1]), path)
        self.picture = picture
        self.handle = engine.image.encode(picture)

    def values(self, number: int) -> np.ndarray:
        self._check_frame(number)
        return self.picture

    def preview(self, frame: int, xy: tuple[float, float]) -> Answer:
        self._check_frame(frame)
        return _answer(self.handle.predict(points=[list(xy)]))

    def _ask(self, number: int, frame: int, said: Said) -> dict[int, Answer]:
        if said.mask is not None:  # as in videos, a mask is its own answer
            return {frame: Answer(rle.encode(said.mask), int(said.mask.sum()), 1.0, None)}
        return {frame: _answer(self.handle.predict(**said.arguments()))}


class ClipWork(Work):
    """A video in a session of the library, which keeps everything, for corrections anywhere."""

    kind = "clip"

    def __init__(
        self, engine: Engine, source: FrameSource, path: Path | None = None, *, session: VideoSession | None = None
    ) -> None:
        super().__init__(engine, source.size, path)
        self.source = source
        self.session = session or engine.video.open(source, keep="all")
        self.frames = source.length or 1
        self.fps = source.fps
        self._run: Iterator[FrameResult] | None = None
        self._leg: Leg | None = None

    def values(self, number: int) -> np.ndarray:
        self._check_frame(number)
        return np.asarray(self.source[number])

    def time(self, number: int) -> float | None:
        return self.source.time(number)

    def preview(self, frame: int, xy: tuple[float, float]) -> Answer:
        self._check_frame(frame)
        return _answer(self.engine.handle(self.session, frame).predict(points=[list(xy)]))

    def begin(self, direction: str, start: int | None, stop: int | None) -> int:
        """Plan a run over the video; `advance` does it. How many frames it has. Raises ValueError as `propagate`."""
        if not self.things:
            raise Refused("there is no object to track; prompt one first", 409)
        for frame in (start, stop):
            if frame is not None and frame != self.frames:
                self._check_frame(frame)
        first = start if start is not None else min(frame for thing in self.things.values() for frame in thing.said)
        self._check_frame(first)
        if direction == "both":
            if stop is not None:
                raise ValueError("stop has no meaning in both directions")
            legs: list[Leg] = [(first, None, "forward")]
            if first > 0:
                legs.append((first - 1, None, "backward"))
        else:
            if direction == "backward" and first == 0:
                raise ValueError("nothing lies before frame 0; start at a later frame, or track forward")
            if stop is not None and (stop >= first if direction == "backward" else stop <= first):
                raise ValueError(f"no frame lies between start {first} and stop {stop} going {direction}")
            legs = [(first, stop, direction)]
        self.legs, self._run, self._leg = legs, None, None
        return self.left

    def go_on(self) -> int:
        """Take up the run that was stopped. How many frames are left. Raises ValueError when there is none."""
        if not self.legs:
            raise Refused("there is no stopped run to go on with", 409)
        self._run = None
        return self.left

    @property
    def left(self) -> int:
        """How many frames of the run are left."""
        count = 0
        for first, stop, direction in self.legs:
            backward = direction == "backward"
            count += first - (-1 if stop is None else stop) if backward else (stop or self.frames) - first
        return count

    def advance(self) -> int | None:
        """Track onto the next frame of the run. Its number; None when the run is done."""
        while self.legs:
            first, stop, direction = self.legs[0]
            if self._run is None or self._leg != self.legs[0]:
                end = -1 if stop is None and direction == "backward" else stop
                self._run = self.session.propagate(first, end, direction=direction)
            result = next(self._run)
            self._store(result)
            following = result.frame + (-1 if direction == "backward" else 1)
            ends = (-1 if stop is None else stop) if direction == "backward" else stop or self.frames
            if following == ends:
                del self.legs[0]
                self._run = self._leg = None
            else:
                self._leg = self.legs[0] = (following, stop, direction)
            return result.frame
        return None

    def _store(self, result: FrameResult) -> None:
        for number, answer in _answers(result).items():
            if number in self.things:
                self.things[number].answers[result.frame] = answer

    def _ask(self, number: int, frame: int, said: Said) -> dict[int, Answer]:
        given = said.arguments() if said.mask is None else {"mask": said.mask}
        result = self.session.prompt(frame, number, **given)
        return {frame: _answers(result)[number]}

    def _took_back(self) -> None:
        self.session.undo()

    def _gave_back(self) -> None:
        self.session.redo()

    def _remove(self, number: int) -> None:
        self.session.remove(number)

    def close(self) -> None:
        super().close()
        self._run = None
        self.session.reset()
        self.source.close()


def _answer(result: Any) -> Answer:
    """The single mask of an image result."""
    mask = result.masks[0, 0].cpu().numpy()
    return Answer(rle.encode(mask), int(mask.sum()), round(float(result.iou[0, 0]), 4), None)


def _answers(result: FrameResult) -> dict[int, Answer]:
    found = {}
    for row, (number, mask) in enumerate(result.masks.items()):
        assert isinstance(number, int)
        inside = mask.cpu().numpy()
        found[number] = Answer(
            rle.encode(inside),
            int(inside.sum()),
            round(float(result.iou[row]), 4),
            round(float(result.object_score[row]), 4),
        )
    return found


def _color(number: int) -> str:
    red, green, blue = palette(number)[-1].tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"
