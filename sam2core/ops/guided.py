"""The guided filter: masks as linear functions of colour in small windows (He, Sun and Tang 2010)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GUIDE = 12  # channels
LIMIT = 8.0


def check_filter(radius: int, epsilon: float) -> None:
    """Raise ValueError for a radius below 1 and for an epsilon that is not above 0."""
    if radius < 1 or epsilon <= 0:
        raise ValueError(f"radius must be at least 1 and epsilon above 0, not {radius} and {epsilon}")


def guide_of(colour: Tensor, *, radius: int, epsilon: float) -> Tensor:
    """What the filter needs of images (B, 3, h, w), normalised: colours, means, inverse covariances (B, 12, h, w).

    `radius` is that of the windows in pixels; `epsilon` the variance below which a window counts as plain.
    """
    mean = window_mean(colour, radius)
    rr, rg, rb, gg, gb, bb = (window_mean(_products(colour), radius) - _products(mean)).unbind(1)
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
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


def fit(logits: Tensor, guide: Tensor, *, radius: int) -> tuple[Tensor, Tensor]:
    """Logits (B, M, h, w) as functions of colour: slopes (B, M, 3, h, w) and offsets (B, M, h, w), meant over windows.

    The guide is (1 or B, 12, h, w). Logits are clamped to plus or minus 8 first, so that none outweighs its window.
    """
    logits = logits.float().clamp(-LIMIT, LIMIT)
    colour, mean, inverse = (part.unsqueeze(1) for part in guide.float().split([3, 3, 6], dim=1))
    level = window_mean(logits, radius)
    covariance = window_mean(logits.unsqueeze(2) * colour, radius) - level.unsqueeze(2) * mean
    r, g, b = covariance.unbind(2)
    rr, rg, rb, gg, gb, bb = inverse.unbind(2)
    slope = torch.stack([rr * r + rg * g + rb * b, rg * r + gg * g + gb * b, rb * r + gb * g + bb * b], dim=2)
    offset = level - (slope * mean).sum(2)
    return window_mean(slope, radius), window_mean(offset, radius)


def upsample(logits: Tensor, picture: Tensor, *, radius: int, epsilon: float) -> Tensor:
    """Logits (B, M, h, w) at the size of one image (3, H, W), normalised, with its edges, in fp32.

    The functions of colour are fitted at the logits' size and applied at the image's, a mask at a time.
    Source: He and Sun 2015, "Fast Guided Filter".
    """
    size = picture.shape[-2:]
    small = F.interpolate(picture[None], logits.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
    slopes, offsets = fit(logits, guide_of(small, radius=radius, epsilon=epsilon), radius=radius)
    functions = torch.cat([slopes, offsets.unsqueeze(2)], dim=2).flatten(0, 1)
    answer = logits.new_empty(len(functions), *size, dtype=torch.float32)
    for mask, function in zip(answer, functions):
        *slope, offset = (F.interpolate(part[None, None], size, mode="bilinear")[0, 0] for part in function)
        mask.copy_(offset)
        for factor, colour in zip(slope, picture):
            mask.addcmul_(factor, colour)
    return answer.view(*logits.shape[:2], *size)


def window_mean(maps: Tensor, radius: int) -> Tensor:
    """The mean over each pixel's window, of maps (..., h, w); what lies outside the image does not count."""
    ones = torch.ones(maps.shape[-2:], dtype=maps.dtype, device=maps.device)
    return _window_sum(maps, radius) * (1 / _window_sum(ones, radius))


def _window_sum(maps: Tensor, radius: int) -> Tensor:
    """The sum over each pixel's window. Shifted maps added up: a tenth of the time of average pooling on a CPU."""
    for dim, sides in ((-1, (radius, radius)), (-2, (0, 0, radius, radius))):
        size, padded = maps.shape[dim], F.pad(maps, sides)
        maps = padded.narrow(dim, 0, size) + padded.narrow(dim, 1, size)
        for shift in range(2, 2 * radius + 1):
            maps += padded.narrow(dim, shift, size)
    return maps


def _products(colours: Tensor) -> Tensor:
    """Each channel of (B, 3, h, w) times each: rr, rg, rb, gg, gb, bb (B, 6, h, w)."""
    r, g, b = colours.unbind(1)
    return torch.stack([r * r, r * g, r * b, g * g, g * b, b * b], dim=1)
