"""From Label Studio's tasks to predictions: opens what a task shows, keeps it open, and says what changed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sam2core_labelstudio import regions as r
from sam2core_labelstudio.client import ApiError, Client, Session

KEPT = 4
"""Sessions that stay open, so that a second click is answered without another look at the image."""
Key = tuple[str, int, int]
"""A file, when it was written, and its bytes."""


@dataclass
class Opened:
    """A task's image or video on the server, and what was made of it."""

    session: Session
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: dict[str, int] = field(default_factory=dict)
    """Label Studio's regions -> objects."""
    said: dict[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)
    """Region and frame -> the key frame that was a prompt there."""
    given: dict[str, dict[int, dict[str, float] | None]] = field(default_factory=dict)
    """Region -> Label Studio's frame -> where it was found."""
    scores: dict[str, list[float]] = field(default_factory=dict)


class Answers:
    """Predictions for tasks, over sessions of one server.

    `frames`: how many frames a call tracks at most, from the first that changed; None: to the video's end.
    """

    def __init__(self, client: Client, *, frames: int | None = None) -> None:
        self.client = client
        self.frames = frames
        self._opened: OrderedDict[Key, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def image(
        self, path: str, drawn: list[r.Region], *, from_name: str, to_name: str, labels: list[str]
    ) -> dict[str, Any]:
        """The prediction for an image: a brush region per object that was drawn on. `labels` are the tag's."""
        return self._with(path, lambda opened: self._image(opened, drawn, from_name, to_name, labels))

    def video(self, path: str, drawn: list[r.Region]) -> dict[str, Any]:
        """The prediction for a video: the drawn regions, tracked."""
        return self._with(path, lambda opened: self._video(opened, drawn))

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            while self._opened:
                self._opened.popitem()[1].session.close()

    def _with(self, path: str, work: Callable[[Opened], dict[str, Any]]) -> dict[str, Any]:
        """Work on a task's session; it is opened anew when the server has dropped it."""
        facts = os.stat(path)
        key = (path, facts.st_mtime_ns, facts.st_size)
        for attempt in (1, 2):
            opened = self._open(key)
            try:
                with opened.lock:
                    return work(opened)
            except BaseException as error:  # what was said and what is known may differ now: begin anew
                self._drop(key, opened)
                if attempt == 2 or not isinstance(error, ApiError) or error.status != 404:
                    raise
        raise AssertionError("unreachable")

    def _open(self, key: Key) -> Opened:
        with self._lock:
            if key not in self._opened:
                while len(self._opened) >= KEPT:
                    _, oldest = self._opened.popitem(last=False)
                    with oldest.lock:
                        oldest.session.close()
                self._opened[key] = Opened(self.client.open(key[0]))
            self._opened.move_to_end(key)
            return self._opened[key]

    def _drop(self, key: Key, opened: Opened) -> None:
        with self._lock:
            if self._opened.get(key) is opened:
                del self._opened[key]
        with contextlib.suppress(ApiError):
            opened.session.close()

    def _image(
        self, opened: Opened, drawn: list[r.Region], from_name: str, to_name: str, labels: list[str]
    ) -> dict[str, Any]:
        session = opened.session
        if session.kind != "image":
            raise ValueError("the task shows a video, where an image was expected")
        chosen = [label for region in drawn for label in r.labels_of(region) if label in labels] or labels
        found = []
        for number, said in enumerate(r.image_prompts(drawn, session.size), 1):
            mask = session.prompt(number, **said.arguments())[number]
            found.append(r.brush_region(mask, from_name=from_name, to_name=to_name, labels=chosen[:1]))
        return _prediction(found, [region["score"] for region in found])

    def _video(self, opened: Opened, drawn: list[r.Region]) -> dict[str, Any]:
        session = opened.session
        if session.kind != "clip":
            raise ValueError("the task shows an image, where a video was expected")
        drawn = [region for region in drawn if region["type"].startswith(("videorectangle", "keypoint", "video"))]
        if not drawn:
            return _prediction([], [])
        clock = r.Clock(drawn[0]["value"], session.frames, session.fps)
        ids = [str(region["id"]) for region in drawn]
        for gone in [id for id in opened.numbers if id not in ids]:
            self._forget(opened, gone)
        changed = [frame for region in drawn for frame in self._say(opened, region, clock)]
        if changed:
            first = min(changed)
            stop = session.frames if self.frames is None else min(first + self.frames, session.frames)
            self._track(opened, first, stop, clock)
        return _prediction(
            [self._region(opened, region, clock) for region in drawn],
            [score for id in ids for score in opened.scores.get(id, [])],
        )

    def _forget(self, opened: Opened, id: str) -> None:
        opened.session.remove(opened.numbers.pop(id))
        opened.given.pop(id, None)
        opened.scores.pop(id, None)
        for key in [key for key in opened.said if key[0] == id]:
            del opened.said[key]

    def _say(self, opened: Opened, region: r.Region, clock: r.Clock) -> list[int]:
        """Prompt with the key frames that the user set: those that are not as they were given to him. The frames."""
        id = str(region["id"])
        given = opened.given.get(id, {})
        frames = []
        for key in r.key_frames(region):
            if _near(_place(key), _place(given.get(key["frame"]))):
                continue
            frame = clock.to_clip(key["frame"])
            if opened.said.get((id, frame)) == _place(key):
                continue
            number = opened.numbers.setdefault(id, max(opened.numbers.values(), default=0) + 1)
            opened.session.prompt(number, frame=frame, **r.said_at(key, opened.session.size))
            opened.said[id, frame] = _place(key)
            frames.append(frame)
        return frames

    def _track(self, opened: Opened, first: int, stop: int, clock: r.Clock) -> None:
        """Track, and keep where each object is on each of Label Studio's frames."""
        shown: dict[int, list[int]] = {}
        for frame in range(1, clock.count + 1):
            shown.setdefault(clock.to_clip(frame), []).append(frame)
        size = opened.session.size
        for result in opened.session.track(first, stop):
            for id, number in opened.numbers.items():
                mask = result.masks[number]
                box = mask.box()
                opened.scores.setdefault(id, []).append(mask.iou)
                for frame in shown.get(result.number, []):
                    opened.given.setdefault(id, {})[frame] = None if box is None else r.percent(box, size)

    def _region(self, opened: Opened, region: r.Region, clock: r.Clock) -> r.Region:
        id = str(region["id"])
        boxes = dict(opened.given.get(id, {}))
        for key in r.key_frames(region):  # beyond what was tracked, what the user set stays
            if key["frame"] not in boxes and key.get("width"):
                boxes[key["frame"]] = {name: key.get(name) or 0 for name in ("x", "y", "width", "height", "rotation")}
        value = {
            **{key: value for key, value in region["value"].items() if key in r.LABEL_KEYS},
            "framesCount": clock.count,
            "duration": clock.duration,
            "sequence": r.sequence(boxes, clock),
        }
        return {**region, "type": "videorectangle", "value": value, "origin": "prediction"}


def _place(key: Mapping[str, Any] | None) -> tuple[float, ...]:
    return () if key is None else tuple(float(key.get(name) or 0) for name in ("x", "y", "width", "height", "rotation"))


def _near(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return bool(other) and all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))


def _prediction(found: list[r.Region], scores: list[float]) -> dict[str, Any]:
    return {"result": found, "score": sum(scores) / len(scores) if scores else 0.0}
