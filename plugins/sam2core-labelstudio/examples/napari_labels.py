"""sam2core in napari, or any tool that has a Labels layer: its points and shapes as prompts, the masks as its labels.

    pip install sam2core-labelstudio "napari[all]" && sam2core serve
    python napari_labels.py clip.mp4

Click on an object (the points' feature `object` numbers it, `positive` says on which side a point is), press T to track
from the current frame, Escape to stop: what was tracked stays, and T goes on. Only `main` needs napari.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from sam2core_labelstudio import Client, Mask, Session
from sam2core_labelstudio.brush import pixels


def prompts(
    points: Iterable[Sequence[float]], objects: Iterable[int], positive: Iterable[bool]
) -> dict[tuple[int, int], dict[str, Any]]:
    """What points (t, y, x) say, by object and frame: keywords of `Session.prompt`."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for (t, y, x), number, side in zip(points, objects, positive, strict=True):
        said = found.setdefault((int(number), round(t)), {"points": [], "labels": []})
        said["points"].append((float(x), float(y)))
        said["labels"].append(int(side))
    return found


def boxes(shapes: Iterable[np.ndarray], objects: Iterable[int]) -> dict[tuple[int, int], dict[str, Any]]:
    """What rectangles, each (4, 3) corners as t, y, x, say, by object and frame."""
    found = {}
    for corners, number in zip(shapes, objects, strict=True):
        (y0, x0), (y1, x1) = corners[:, 1:].min(axis=0), corners[:, 1:].max(axis=0)
        found[int(number), round(float(corners[0, 0]))] = {"box": (float(x0), float(y0), float(x1), float(y1))}
    return found


def paint(labels: np.ndarray, frame: int, masks: dict[int, Mask]) -> None:
    """Draw a frame's masks into a Labels layer's (T, H, W) array; where two overlap, the later object lies above."""
    labels[frame] = 0
    for number, mask in masks.items():
        labels[frame][pixels(mask)] = number


def track(session: Session, labels: np.ndarray, start: int | None = None, *, resume: bool = False) -> Iterator[int]:
    """Track, and draw frame by frame: what a napari `thread_worker` yields, so that the window stays alive."""
    for frame in session.track(start, resume=resume):
        paint(labels, frame.number, frame.masks)
        yield frame.number


def main() -> None:
    import napari
    from napari.qt.threading import thread_worker

    session = Client().open(sys.argv[1])
    viewer = napari.Viewer()
    labels = np.zeros((session.frames, *session.size), dtype=np.uint8)
    layer = viewer.add_labels(labels, name="objects")
    clicks = viewer.add_points(np.zeros((0, 3)), name="clicks", features={"object": [], "positive": []}, ndim=3)
    clicks.feature_defaults = {"object": 1, "positive": True}
    asked: dict[tuple[int, int], Any] = {}

    @clicks.events.data.connect
    def say(_: Any) -> None:
        for (number, frame), said in prompts(
            clicks.data, clicks.features["object"], clicks.features["positive"]
        ).items():
            if asked.get((number, frame)) != said:
                asked[number, frame] = said
                paint(labels, frame, session.prompt(number, frame=frame, **said))
        layer.refresh()

    @viewer.bind_key("t")
    def go(viewer: Any) -> None:
        worker = thread_worker(track)(session, labels, int(viewer.dims.current_step[0]))
        worker.yielded.connect(lambda _: layer.refresh())
        worker.start()

    @viewer.bind_key("Escape")
    def stop(_: Any) -> None:
        session.cancel()

    napari.run()
    session.close()


if __name__ == "__main__":
    main()
