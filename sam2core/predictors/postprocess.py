"""Clean mask logits: fill holes, drop islands, keep the largest region, in one chain for every predictor; sharpen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam2core.media.images import ImageLike, read_image
from sam2core.ops import guided, regions
from sam2core.ops.pixels import normalise
from sam2core.predictors.transforms import to_model_points
from sam2core.types import Label


@dataclass(frozen=True)
class Postprocess:
    """What is done to low-resolution mask logits before they are resized; the same on every device.

    Areas are in pixels of the low-resolution mask (a quarter of the model's image size), 0 turns a step off; regions
    are 8-connected and both areas are judged on the mask as it came. Filled pixels get `threshold` + `margin`, dropped
    ones `threshold` - `margin`. Source: Meta's ``SAM2Transforms.postprocess_masks``.
    """

    fill_holes: int = 0
    drop_islands: int = 0
    keep_largest: bool = False
    threshold: float = 0.0
    margin: float = 10.0

    def __post_init__(self) -> None:
        for name in ("fill_holes", "drop_islands"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is an area in low-resolution pixels, 0 or more, not {getattr(self, name)}")

    def __call__(self, logits: Tensor, clicks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Logits (..., h, w) to cleaned logits of the same shape.

        With `clicks` logits are (B, M, h, w), and a mask that was clicked keeps the clicked regions alone, however
        small; one that no click lies in (it was asked for by a box, say) loses its islands unless it is made of nothing
        else. They are x, y in low-resolution pixels (B, P, 2), and which of them are meant (B, P).
        """
        clean = logits
        inside, outside = self.threshold + self.margin, self.threshold - self.margin
        if self.fill_holes:
            clean = torch.where(regions.holes(logits, self.fill_holes, self.threshold), inside, clean)
        if clicks is not None:
            clean = torch.where(self._unclicked(logits, clean > self.threshold, *clicks), outside, clean)
        elif self.drop_islands:
            clean = torch.where(regions.islands(logits, self.drop_islands, self.threshold), outside, clean)
        if self.keep_largest:
            rest = (clean > self.threshold) & ~regions.largest(clean > self.threshold)
            clean = torch.where(rest, outside, clean)
        return clean

    def _unclicked(self, logits: Tensor, mask: Tensor, places: Tensor, meant: Tensor) -> Tensor:
        """What to drop from masks (B, M, h, w) made of the logits."""
        held = regions.holding(mask, places, meant)
        small = torch.zeros_like(mask)
        if self.drop_islands:
            small = regions.islands(logits, self.drop_islands, self.threshold)
        clicked, lasting = (part.any(dim=(-2, -1), keepdim=True) for part in (held, mask & ~small))
        return torch.where(clicked, mask & ~held, small & lasting)


def clicks_on(logits: Tensor, points: Tensor, labels: Tensor, *, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The `clicks` of `Postprocess`: points (B, P, 2) of an image (H, W) on pixels of the logits, and the positive."""
    height, width = logits.shape[-2:]
    places = to_model_points(points.to(logits.device), image_size, (height, width))
    return places, (labels == Label.POSITIVE).to(logits.device)


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
