"""SAM's mask decoder with masks that follow the edges of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.heads.mask_decoder import SamMaskDecoder

LIMIT = 8.0
GUIDE = 12  # channels


class GuidedMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder, its masks guided by the picture: in each small window they are a linear function of colour.

    A mask then ends where the picture has an edge nearby, which small models do not find by themselves. `radius` is
    that of the windows in mask pixels, at least 1; `epsilon`, above 0, is the variance of the normalised picture below
    which a window counts as plain and is only smoothed. It has no weights: those of the decoder it extends fit.
    Logits are clamped to plus or minus 8 first, so that no single pixel outweighs its window.
    Source: He, Sun and Tang 2010, "Guided Image Filtering", with a picture of three channels (section 3.5).
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
        if radius < 1 or epsilon <= 0:
            raise ValueError(f"radius must be at least 1 and epsilon above 0, not {radius} and {epsilon}")
        self.radius = radius
        self.epsilon = epsilon

    def project_skips(self, maps: Sequence[Tensor], pixels: Tensor) -> tuple[Tensor, ...]:
        """As `SamMaskDecoder`, and behind the channels of the map at stride 4 those of the guide."""
        finest, finer = super().project_skips(maps, pixels)
        return torch.cat([finest, self._guide(pixels)], dim=1), finer

    def _guide(self, pixels: Tensor) -> Tensor:
        """What the filter needs of pictures (B, 3, 4 h, 4 w): colours, means, inverse covariances (B, 12, h, w)."""
        colour = F.avg_pool2d(pixels.float(), 4)
        mean = self._mean(colour)
        rr, rg, rb, gg, gb, bb = (self._mean(_products(colour)) - _products(mean)).unbind(1)
        rr, gg, bb = rr + self.epsilon, gg + self.epsilon, bb + self.epsilon
        adjugate = torch.stack(
            [
                gg * bb - gb * gb,
                rb * gb - rg * bb,
                rg * gb - rb * gg,
                rr * bb - rb * rb,
                rg * rb - rr * gb,
                rr * gg - rg * rg,
            ],
            dim=1,
        )
        determinant = rr * adjugate[:, 0] + rg * adjugate[:, 1] + rb * adjugate[:, 2]
        return torch.cat([colour, mean, adjugate / determinant.unsqueeze(1)], dim=1)

    def own_skips(self, skips: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All channels but the guide's."""
        finest, finer = skips
        return finest[:, :-GUIDE].to(finer.dtype), finer

    def finish(self, masks: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        """The masks, guided."""
        return self._follow(masks, skips[0][:, -GUIDE:])

    def _follow(self, logits: Tensor, guide: Tensor) -> Tensor:
        """Logits (B, M, h, w) as what the picture allows them to be; the guide is (1 or B, 12, h, w)."""
        dtype, logits = logits.dtype, logits.float().clamp(-LIMIT, LIMIT)
        colour, mean, inverse = (part.unsqueeze(1) for part in guide.float().split([3, 3, 6], dim=1))
        level = self._mean(logits)
        covariance = self._mean(logits.unsqueeze(2) * colour) - level.unsqueeze(2) * mean
        r, g, b = covariance.unbind(2)
        rr, rg, rb, gg, gb, bb = inverse.unbind(2)
        slope = torch.stack([rr * r + rg * g + rb * b, rg * r + gg * g + gb * b, rb * r + gb * g + bb * b], dim=2)
        offset = level - (slope * mean).sum(2)
        return ((self._mean(slope) * colour).sum(2) + self._mean(offset)).to(dtype)

    def _mean(self, maps: Tensor) -> Tensor:
        """The mean over each pixel's window, of maps (..., h, w); what lies outside the picture does not count."""
        ones = torch.ones(maps.shape[-2:], dtype=maps.dtype, device=maps.device)
        return self._sum(maps) * (1 / self._sum(ones))

    def _sum(self, maps: Tensor) -> Tensor:
        """The sum over each pixel's window. Shifted maps added up: a tenth of the time of average pooling on a CPU."""
        for dim, sides in ((-1, (self.radius, self.radius)), (-2, (0, 0, self.radius, self.radius))):
            size, padded = maps.shape[dim], F.pad(maps, sides)
            maps = padded.narrow(dim, 0, size) + padded.narrow(dim, 1, size)
            for shift in range(2, 2 * self.radius + 1):
                maps += padded.narrow(dim, shift, size)
        return maps


def _products(colours: Tensor) -> Tensor:
    """Each channel of (B, 3, h, w) times each: rr, rg, rb, gg, gb, bb (B, 6, h, w)."""
    r, g, b = colours.unbind(1)
    return torch.stack([r * r, r * g, r * b, g * g, g * b, b * b], dim=1)
