"""AutoMask: one mask that was found in a picture, and the forms it is told in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2core.ops import rle
from sam2core.predictors.crops import Crop

FORMS = ("binary_mask", "coco_rle", "uncompressed_rle")


@dataclass(frozen=True, eq=False)
class AutoMask:
    """One mask found in a picture, as run lengths; it becomes pixels when asked for."""

    size: tuple[int, int]
    """The picture's (H, W)."""
    runs: np.ndarray  # lengths of runs down the columns of the whole picture, zeros first
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, the last corner inclusive; zeros for an empty mask."""
    iou: float
    """The model's own estimate."""
    stability: float
    """The area at the threshold plus the offset over that at the threshold minus it; NaN when both are empty."""
    point: tuple[float, float]
    """The click that found it, x, y in pixels."""
    crop: Crop
    """The part of the picture the model saw: x0, y0, x1, y1, the last corner outside."""

    @property
    def area(self) -> int:
        """In pixels."""
        return int(self.runs[1::2].sum())

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return rle.fill(self.runs, self.size)

    @property
    def coco(self) -> dict[str, Any]:
        """COCO's run-length coding, ready for JSON: ``{"size": [H, W], "counts": str}``."""
        return {"size": list(self.size), "counts": rle.compress(self.runs)}

    def record(self, form: str = "binary_mask") -> dict[str, Any]:
        """The dictionary that upstream's generator gives, with its segmentation in one of three forms.

        `form` is ``"binary_mask"`` (bool array), ``"coco_rle"`` or ``"uncompressed_rle"`` (a list of run lengths).
        Boxes are x, y, width, height, where a width is the distance from the first to the last pixel. Raises
        ValueError for another form.
        """
        if form not in FORMS:
            raise ValueError(f"the form of a segmentation is one of {', '.join(FORMS)}, not {form!r}")
        segmentation: Any = self.mask if form == "binary_mask" else self.coco
        if form == "uncompressed_rle":
            segmentation = {"size": list(self.size), "counts": self.runs.tolist()}
        (x0, y0, x1, y1), (left, top, right, bottom) = self.box, self.crop
        return {
            "segmentation": segmentation,
            "area": self.area,
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "predicted_iou": self.iou,
            "point_coords": [list(self.point)],
            "stability_score": self.stability,
            "crop_box": [float(left), float(top), float(right - left), float(bottom - top)],
        }
