"""Losses on mask logits as the decoder gives them: at low resolution, before they are gated by presence.

Targets are soft: the share of a low-resolution cell that the object covers, so that nothing is lost to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the named parts; see `step_losses`."""

    bce: float = 2.0
    focal: float = 0.0
    dice: float = 1.0
    iou: float = 0.5
    presence: float = 0.05
    single: float = 0.5  # mask 0 after one click, where masks 1 to 3 answer
    spread: float = 0.1  # every mask, chosen or not: none is left without a gradient


def soft_target(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Boolean masks (..., H, W) as shares of covered area (..., h, w); H, W must be multiples of h, w."""
    lead = masks.shape[:-2]
    return F.adaptive_avg_pool2d(masks.reshape(1, -1, *masks.shape[-2:]).float(), size).view(*lead, *size)


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy per mask: (..., h, w) twice -> (...)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))


def focal_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean sigmoid focal loss per mask (Lin et al. 2017), (..., h, w) twice -> (...)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    agreement = probability * target + (1 - probability) * (1 - target)
    balance = alpha * target + (1 - alpha) * (1 - target)
    return (balance * (1 - agreement) ** gamma * cross_entropy).mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice overlap, smoothed by 1: (..., h, w) twice -> (...)."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def hard_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of logits > 0 with target > 0.5: (..., h, w) twice -> (...); an empty union counts 0."""
    answer, truth = logits > 0, target > 0.5
    return (answer & truth).sum((-2, -1)).float() / (answer | truth).sum((-2, -1)).clamp(min=1).float()


def mask_loss(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    """The weighted sum of the mask terms, per mask."""
    loss = weights.bce * bce_loss(logits, target) + weights.dice * dice_loss(logits, target)
    if weights.focal:
        loss = loss + weights.focal * focal_loss(logits, target)
    return loss


def step_losses(
    masks: Tensor, iou: Tensor, presence: Tensor, target: Tensor, several: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """The named losses of one decoder step, each a mean over objects; "total" is their weighted sum.

    masks (M, 4, h, w) logits, iou (M, 4), presence (M, 1), target (M, h, w) in [0, 1].
    several (M,) bool: this object's prompt is ambiguous (one click), so the best of masks 1 to 3 answers and is taught;
    otherwise mask 0 is. The IoU head is taught on all four masks.
    """
    truth = target[:, None].expand_as(masks)
    each = mask_loss(masks, truth, weights)
    best = each[:, 1:].min(1).values
    answer = torch.where(several, best + weights.single * each[:, 0], each[:, 0] + weights.single * best)
    reached = hard_iou(masks.detach(), truth)
    named = {
        "mask": answer.mean(),
        "spread": each.mean(),
        "iou": F.mse_loss(iou, reached),
        "presence": F.binary_cross_entropy_with_logits(presence[:, 0], (target.flatten(1).amax(1) > 0.5).float()),
    }
    named["total"] = (
        named["mask"]
        + weights.spread * named["spread"]
        + weights.iou * named["iou"]
        + weights.presence * named["presence"]
    )
    return named
