"""AutoMask: one mask that was found in an image; AutoMasks: all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam2core.annotations import integer
from sam2core.ops import rle
from sam2core.predictors.crops import Crop
from sam2core.predictors.object_masks import ObjectMasks, Picture

FORMS = ("binary_mask", "coco_rle", "uncompressed_rle")


@dataclass(frozen=True, eq=False, repr=False)
class AutoMask(ObjectMasks):
    """One mask found in an image, as run lengths; it becomes pixels when asked for. A result of one object."""

    size: tuple[int, int]
    """The image's (H, W)."""
    runs: np.ndarray  # lengths of runs down the columns of the whole image, zeros first
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, the last corner inclusive; zeros for an empty mask."""
    iou: float
    """The model's own estimate."""
    stability: float
    """The area at the threshold plus the offset over that at the threshold minus it; NaN when both are empty."""
    point: tuple[float, float]
    """The click that found it, x, y in pixels."""
    crop: Crop
    """The part of the image the model saw: x0, y0, x1, y1, the last corner outside."""
    picture: Picture = None

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
        """The dictionary that Meta's generator gives, with its segmentation in one of three forms.

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

    @property
    def objects(self) -> tuple[int, ...]:
        return (0,)

    @property
    def scores(self) -> np.ndarray:
        return np.array([self.iou], dtype=np.float32)

    def each(self) -> Iterator[np.ndarray]:
        yield self.mask

    def cpu(self) -> AutoMask:
        return self

    def rle(self) -> list[dict[str, Any]]:
        return [self.coco]

    def _rows(self, rows: list[int]) -> Any:
        return self if rows == [0] else AutoMasks([self] * len(rows), self.size, self.picture)

    def _columns(self) -> dict[str, Any]:
        return {"stability": [self.stability]}


class AutoMasks(ObjectMasks, list[AutoMask]):
    """The masks found in an image, best estimate first: a list, and a result of as many objects.

    `found[i]` is one mask; lists, slices and booleans give some of them, in the same form.
    """

    def __init__(self, masks: Iterable[AutoMask], size: tuple[int, int], picture: Picture = None) -> None:
        list.__init__(self, masks)
        self.size = size
        self.picture = picture

    __len__ = list.__len__
    __iter__ = list.__iter__

    @property
    def objects(self) -> tuple[int, ...]:
        return tuple(range(len(self)))

    @property
    def scores(self) -> np.ndarray:
        return np.array([one.iou for one in self], dtype=np.float32)

    @property
    def areas(self) -> np.ndarray:
        return np.array([one.area for one in self], dtype=np.int64)

    def each(self) -> Iterator[np.ndarray]:
        for one in self:
            yield one.mask

    def cpu(self) -> AutoMasks:
        return self

    def rle(self) -> list[dict[str, Any]]:
        return [one.coco for one in self]

    def __getitem__(self, key: Any) -> Any:
        one = integer(key)
        return super().__getitem__(key) if one is None else list.__getitem__(self, self._row(one))

    def _rows(self, rows: list[int]) -> AutoMasks:
        return AutoMasks([list.__getitem__(self, row) for row in rows], self.size, self.picture)

    def _columns(self) -> dict[str, Any]:
        return {"stability": [one.stability for one in self]}
