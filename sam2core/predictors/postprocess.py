"""Clean mask logits: one chain of steps, the same for every predictor; sharpen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2core.annotations import fits
from sam2core.media.images import ImageLike, read_image
from sam2core.older import check_keywords
from sam2core.ops import guided, regions
from sam2core.ops.pixels import normalise
from sam2core.predictors.transforms import to_model_points
from sam2core.types import Label

DROPPED = 10.0
"""How far below the threshold a dropped pixel comes to lie."""


class Clicks(NamedTuple):
    """The clicks that masks answer: points (B, P, 2) of an image (H, W), and their labels (B, P)."""

    points: Tensor
    labels: Tensor
    image_size: tuple[int, int]

    def on(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The points x, y on pixels of logits (..., h, w), and which of them are positive."""
        height, width = logits.shape[-2:]
        places = to_model_points(self.points.to(logits.device), self.image_size, (height, width))
        return places, (self.labels == Label.POSITIVE).to(logits.device)


@dataclass(frozen=True)
class Cleaning:
    """What is done to low-resolution mask logits before they are resized; the same on every device.

    Areas are in pixels of the low-resolution mask (a quarter of the model's image size), 0 turns a step off; regions
    are 8-connected and both areas are judged on the mask as it came. Source: Meta's
    ``SAM2Transforms.postprocess_masks`` and ``fill_holes_in_mask_scores``.

    fill_holes    fill holes of up to so many pixels: they get `threshold` + `filled`
    drop_islands  drop regions of up to so many pixels: they get `threshold` - 10, as does all that other steps drop
    keep_clicked  of a mask that was clicked keep the clicked regions alone, however small; one that no click lies in
                  (it was asked for by a box, say) loses its islands unless it is made of nothing else
    keep_largest  keep one region
    threshold     the logit that a mask begins above
    """

    fill_holes: int = 0
    drop_islands: int = 0
    keep_clicked: bool = False
    keep_largest: bool = False
    threshold: float = 0.0
    filled: float = 10.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not fits(value, entry.type):
                raise ValueError(f"cleaning: {entry.name} is {entry.type}, not {value!r}")
        for name in ("fill_holes", "drop_islands"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is an area in low-resolution pixels, 0 or more, not {getattr(self, name)}")

    def edited(self, steps: Mapping[str, Any] | None) -> Cleaning:
        """This chain with some of its fields given anew, as options of predictors do. Raises ValueError."""
        steps = {} if steps is None else dict(steps)
        known = [entry.name for entry in fields(self)]
        check_keywords("cleaning", [step for step in steps if step not in known], known)
        return replace(self, **steps)

    def __call__(self, logits: Tensor, clicks: Clicks | None = None) -> Tensor:
        """Logits (..., h, w) to cleaned logits of the same shape; with `clicks` they are (B, M, h, w)."""
        clean = logits
        inside, outside = self.threshold + self.filled, self.threshold - DROPPED
        if self.fill_holes:
            clean = torch.where(regions.holes(logits, self.fill_holes, self.threshold), inside, clean)
        if self.keep_clicked and clicks is not None:
            clean = torch.where(self._unclicked(logits, clean > self.threshold, *clicks.on(logits)), outside, clean)
        elif self.drop_islands:
            clean = torch.where(regions.islands(logits, self.drop_islands, self.threshold), outside, clean)
        if self.keep_largest:
            rest = (clean > self.threshold) & ~regions.largest(clean > self.threshold)
            clean = torch.where(rest, outside, clean)
        return clean

    def _unclicked(self, logits: Tensor, mask: Tensor, places: Tensor, positive: Tensor) -> Tensor:
        """What to drop from masks (B, M, h, w) made of the logits."""
        held = regions.holding(mask, places, positive)
        small = torch.zeros_like(mask)
        if self.drop_islands:
            small = regions.islands(logits, self.drop_islands, self.threshold)
        clicked, lasting = (part.any(dim=(-2, -1), keepdim=True) for part in (held, mask & ~small))
        return torch.where(clicked, mask & ~held, small & lasting)


def sharpen(logits: Tensor, picture: ImageLike, *, radius: int = 2, epsilon: float = 2e-3) -> Tensor:
    """Low-resolution logits (B, M, h, w) at an image's size (B, M, H, W), with edges where the image has them.

    `logits` are those of an `ImageResult`, or with a dimension more of a `FrameResult` (`logits.unsqueeze(1)`), of the
    whole image; `picture` is anything that `encode` takes. `radius` is that of the windows in low-resolution pixels,
    `epsilon` the variance of normalised colours below which a window is only smoothed. Thin things and good masks gain,
    masks of the wrong thing do not. Raises ValueError for logits of another shape, a radius below 1 and an epsilon that
    is not above 0. Source: He and Sun 2015, "Fast Guided Filter"; Meta's sam2 resizes without looking at the image.
    """
    if logits.ndim != 4:
        raise ValueError(f"logits are (B, M, h, w), not {tuple(logits.shape)}")
    guided.check_filter(radius, epsilon)
    colours = normalise(read_image(picture).to(logits.device).float()[None])[0]
    return guided.upsample(logits, colours, radius=radius, epsilon=epsilon)
