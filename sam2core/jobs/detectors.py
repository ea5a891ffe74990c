"""Detectors: what seeds images and videos with boxes. Built in is the one that reads what another program found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.jobs.prompts import UserPrompt

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sam2core.jobs.prompt_files import PromptFile
    from sam2core.protocols import Detector
    from sam2core.types import Detections


class BoxesDetector:
    """Boxes from a file, in any of the forms of `sam2core.jobs.prompt_files`, by image, or by video and frame.

    file        the file, or a folder of YOLO's txt; without one nothing is ever found
    threshold   boxes with a lower score are left out
    """

    def __init__(self, *, file: str = "", threshold: float = 0.0) -> None:
        self.file, self.threshold = file, threshold
        self._told: PromptFile | None = None
        self._known: dict[str, list[UserPrompt]] = {}

    def detect(self, picture: np.ndarray, *, source: str, frame: int) -> Detections:
        """The boxes that the file has of an image, or of a frame. Raises ValueError for a file that is none."""
        from sam2core.jobs.prompt_files import PromptFile

        if self.file and self._told is None:
            self._told = PromptFile(self.file)
        if self._told is not None and source not in self._known:
            self._known = {source: list(self._told.known(Path(source)).values())}
        here = [one for one in self._known.get(source, ()) if one.frame == frame and one.box is not None]
        kept = [one for one in here if one.score is None or one.score >= self.threshold]
        return detections(
            [one.box for one in kept],
            [one.category for one in kept],
            [1.0 if one.score is None else one.score for one in kept],
        )


def detections(boxes: Any, labels: Any, scores: Any) -> Detections:
    """Detections of N boxes in any order, surest first; those that are equally sure stay in their order.

    Raises ValueError when there are not as many labels and scores.
    """
    import numpy as np

    from sam2core.types import Detections

    corners = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    sure = np.asarray(scores, dtype=np.float32).reshape(-1)
    names = [str(label) for label in labels]
    if not len(corners) == len(sure) == len(names):
        raise ValueError(f"a detector gave {len(corners)} boxes, {len(names)} labels and {len(sure)} scores")
    order = np.argsort(-sure, kind="stable")
    return Detections(corners[order], tuple(names[index] for index in order), sure[order])


class Newcomers:
    """What a detector finds on a frame of a video and nobody follows yet; for `track_found`.

    detector    finds boxes
    source      what it is told of the video
    image     gives a frame (H, W, 3) uint8 by its place among those that are looked at
    number      gives that frame's number in the video
    categories  is told the class of each object, by its number as text
    same        IoU of a box with that of an object's mask, from which on it is that object
    joined      told when there are new ones
    """

    def __init__(
        self,
        detector: Detector,
        source: str,
        picture: Callable[[int], np.ndarray],
        number: Callable[[int], int],
        categories: dict[str, str],
        *,
        same: float = 0.5,
        most: int = 64,
        joined: Callable[[], None] = lambda: None,
    ) -> None:
        self.detector, self.source, self.picture, self.number = detector, source, picture, number
        self.categories, self.same, self.most, self.joined = categories, same, most, joined

    def __call__(self, frame: int, known: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The prompts of the new ones; of two detections of one thing the surer counts."""
        from sam2core.ops.polygons import extent

        pixels = self.picture(frame)
        found = self.detector.detect(pixels, source=self.source, frame=self.number(frame))
        taken: list[Sequence[float]] = [extent(mask.numpy()) for mask in known if bool(mask.any())]
        boxes: list[list[float]] = []
        for box, label in zip(_inside(found.boxes, pixels.shape[:2]), found.labels):
            if box is None or any(_iou(box, other) >= self.same for other in taken):
                continue
            if len(self.categories) == self.most:
                break
            taken.append(box)
            boxes.append(box)
            self.categories[str(len(self.categories) + 1)] = label
        if boxes:
            self.joined()
        return [{"box": box} for box in boxes]


def _inside(boxes: np.ndarray, size: tuple[int, int]) -> list[list[float] | None]:
    """Boxes (N, 4) cut to an image of (H, W); None for those that lie outside of it."""
    height, width = size
    cut = [(max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in boxes.tolist()]
    return [[x0, y0, x1, y1] if x1 > x0 and y1 > y0 else None for x0, y0, x1, y1 in cut]


def _iou(first: Sequence[float], second: Sequence[float]) -> float:
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return wide * high / (sum(areas) - wide * high)


def prompts_of(detector: Detector, picture: np.ndarray, source: str) -> tuple[UserPrompt, ...]:
    """What a detector finds in an image, an object each, within the image; what lies outside is left out."""
    found = detector.detect(picture, source=source, frame=0)
    boxes = _inside(found.boxes, (picture.shape[0], picture.shape[1]))
    kept = [index for index, box in enumerate(boxes) if box is not None]
    return tuple(
        UserPrompt(
            str(number),
            0,
            box=boxes[index],
            category=found.labels[index],
            score=round(float(found.scores[index]), 4),
        )
        for number, index in enumerate(kept, 1)
    )
