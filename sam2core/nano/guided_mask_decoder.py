"""SAM's mask decoder with masks that follow the edges of the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.ops.guided import GUIDE, check_filter, fit, guide_of


class GuidedMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder, its masks guided by the image: in each small window they are a linear function of colour.

    A mask then ends where the image has an edge nearby, which small models do not find by themselves. `radius` is
    that of the windows in mask pixels, at least 1; `epsilon`, above 0, is the variance of the normalised image below
    which a window counts as plain and is only smoothed. It has no weights: those of the decoder it extends fit.
    Logits are clamped to plus or minus 8 first, so that no single pixel outweighs its window.
    Source: He, Sun and Tang 2010, "Guided Image Filtering", with an image of three channels (section 3.5).
    """

    def __init__(
        self,
        dim: int,
        *,
        radius: int = 3,
        epsilon: float = 2e-3,
        heads: int = 8,
        hidden: int = 2048,
        stability: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(dim, heads=heads, hidden=hidden, stability=stability)
        check_filter(radius, epsilon)
        self.radius = radius
        self.epsilon = epsilon

    def with_pixels(self, high_res_features: tuple[Tensor, ...], pixels: Tensor) -> tuple[Tensor, ...]:
        """The channels of the guide behind those of the map at stride 4."""
        finest, finer = high_res_features
        guide = guide_of(F.avg_pool2d(pixels.float(), 4), radius=self.radius, epsilon=self.epsilon)
        return torch.cat([finest, guide], dim=1), finer

    def own_features(self, high_res_features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All channels but the guide's."""
        finest, finer = high_res_features
        return finest[:, :-GUIDE].to(finer.dtype), finer

    def finish(self, masks: Tensor, high_res_features: tuple[Tensor, ...]) -> Tensor:
        """The masks (B, M, h, w), guided: what the image allows them to be."""
        guide = high_res_features[0][:, -GUIDE:].float()
        slope, offset = fit(masks, guide, radius=self.radius)
        return ((slope * guide[:, None, :3]).sum(2) + offset).to(masks.dtype)
