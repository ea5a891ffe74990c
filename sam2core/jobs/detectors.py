"""Detectors: what seeds pictures and clips with boxes. Built in is the one that reads what another program found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.jobs.prompts import UserPrompt

if TYPE_CHECKING:
    import numpy as np

    from sam2core.jobs.prompt_files import PromptFile
    from sam2core.protocols import Detector
    from sam2core.types import Detections


class BoxesDetector:
    """Boxes from a file, in any of the forms of `sam2core.jobs.prompt_files`, by picture, or by clip and frame.

    file        the file, or a folder of YOLO's txt; without one nothing is ever found
    threshold   boxes with a lower score are left out
    """

    def __init__(self, *, file: str = "", threshold: float = 0.0) -> None:
        self.file, self.threshold = file, threshold
        self._told: PromptFile | None = None

    def detect(self, picture: np.ndarray, *, source: str, frame: int) -> Detections:
        """The boxes that the file has of a picture, or of a frame. Raises ValueError for a file that is none."""
        from sam2core.jobs.prompt_files import PromptFile

        if self.file and self._told is None:
            self._told = PromptFile(self.file)
        prompts = [] if self._told is None else list(self._told.known(Path(source)).values())
        here = [one for one in prompts if one.frame == frame and one.box is not None]
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


def prompts_of(detector: Detector, picture: np.ndarray, source: str) -> tuple[UserPrompt, ...]:
    """What a detector finds in a picture, an object each, within the picture; what lies outside is left out."""
    import numpy as np

    found = detector.detect(picture, source=source, frame=0)
    height, width = picture.shape[:2]
    boxes = np.clip(found.boxes, 0, [width, height, width, height])
    kept = [index for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()) if x1 > x0 and y1 > y0]
    return tuple(
        UserPrompt(
            str(number),
            0,
            box=[float(side) for side in boxes[index]],
            category=found.labels[index],
            score=round(float(found.scores[index]), 4),
        )
        for number, index in enumerate(kept, 1)
    )
