"""A detector that is a pipeline of transformers: of fixed classes, or of whatever a text says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from sam2core.jobs.detectors import detections
from sam2core.types import Detections

PLAIN = "PekingU/rtdetr_v2_r18vd"
WORDED = "google/owlv2-base-patch16-ensemble"
"""The models that are taken where none is said: of COCO's classes, and by words."""


class PipelineDetector:
    """Any model of the pipelines ``object-detection`` and ``zero-shot-object-detection``.

    Args:
        text: what to look for, such as ``"red cup"``; several things between commas. Empty: the model's own classes.
        model: a name on the hub, or a folder; by default `WORDED` with a text, `PLAIN` without one.
        threshold: boxes with a lower score are left out.
        classes: the classes to keep, between commas; empty keeps all.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` and so on.

    Raises:
        ValueError: a threshold beyond 0 and 1, or classes beside a text.
    """

    def __init__(
        self, *, text: str = "", model: str = "", threshold: float = 0.3, classes: str = "", device: str = "auto"
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a score from 0 to 1, not {threshold}")
        self.words, self.kept = _listed(text), _listed(classes)
        if self.words and self.kept:
            raise ValueError(f"text says what to look for: no classes={classes!r} beside it")
        self.model = model or (WORDED if self.words else PLAIN)
        self.threshold = threshold
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._pipeline: Any = None

    def detect(self, picture: np.ndarray, *, source: str, frame: int) -> Detections:
        """The things in an image (H, W, 3) uint8, surest first.

        The first call reads the model. Raises OSError when there is none, and ValueError for a class it has not.
        """
        if self._pipeline is None:
            self._pipeline = self._open()
        asked = {"candidate_labels": self.words} if self.words else {}
        found = self._pipeline(Image.fromarray(picture), threshold=self.threshold, **asked)
        found = [one for one in found if not self.kept or one["label"] in self.kept]
        boxes = [[one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for one in found]
        return detections(boxes, [one["label"] for one in found], [one["score"] for one in found])

    def _open(self) -> Any:
        from transformers import pipeline

        task = "zero-shot-object-detection" if self.words else "object-detection"
        made: Any = pipeline(task, model=self.model, device=self.device)  # type: ignore[call-overload]
        known = made.model.config.id2label.values()
        if absent := [word for word in self.kept if word not in known]:
            raise ValueError(f"{self.model} has no class {absent[0]!r}; it has {', '.join(known)}")
        return made


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
