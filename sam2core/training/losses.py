"""Losses on mask logits as the decoder gives them: at low resolution, before they are gated by object score.

Targets are soft: the share of a low-resolution cell that the object covers, so that nothing is lost to rounding. All
losses are per object; whoever adds them up decides what they are divided by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 30.0  # a logit without a loss
COMPATIBLE = ("", "upstream")
NAMES = (
    *("total", "mask", "focal", "dice", "dense", "dense_iou", "spread", "iou", "object_score"),
    *("teacher_embedding", "teacher_memory", "teacher_mask", "teacher_iou", "teacher_object_score"),
)  # all there are


@dataclass(frozen=True)
class LossWeights:
    """Weights of the named parts; see `step_losses`. compat="upstream" computes `upstream_losses` instead."""

    bce: float = 2.0
    focal: float = 0.0
    dice: float = 1.0
    iou: float = 0.5
    object_score: float = 0.05
    single: float = 0.5  # mask 0 after one click, where masks 1 to 3 answer
    best: float | None = None  # the best of masks 1 to 3 where mask 0 answers; None: as `single`
    spread: float = 0.1  # every mask, chosen or not: none is left without a gradient
    compat: str = ""

    def __post_init__(self) -> None:
        if self.compat not in COMPATIBLE:
            raise ValueError(f"losses.compat is {' or '.join(map(repr, COMPATIBLE))}, not {self.compat!r}")


def soft_target(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Boolean masks (..., H, W) as shares of covered area (..., h, w); H, W must be multiples of h, w."""
    lead = masks.shape[:-2]
    return F.adaptive_avg_pool2d(masks.reshape(1, -1, *masks.shape[-2:]).float(), size).view(*lead, *size)


def judged(logits: Tensor, target: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits and target (..., h, w) as they are judged: sure and right where pixels (..., h, w) are not counted.

    There is no loss there, and no gradient.
    """
    if ignored is None:
        return logits, target
    right = (target > 0.5).to(logits.dtype)
    return torch.where(ignored, SURE * (2 * right - 1), logits), torch.where(ignored, right.to(target.dtype), target)


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
    loss = weights.dice * dice_loss(logits, target)
    if weights.bce:
        loss = loss + weights.bce * bce_loss(logits, target)
    if weights.focal:
        loss = loss + weights.focal * focal_loss(logits, target)
    return loss


def step_losses(
    masks: Tensor,
    iou: Tensor,
    object_score: Tensor,
    target: Tensor,
    multimask_output: Tensor,
    weights: LossWeights,
    ignored: Tensor | None = None,
) -> dict[str, Tensor]:
    """The named losses (M,) of one decoder step for each object; "total" is their weighted sum.

    masks (M, 4, h, w) logits, iou (M, 4), object score (M, 1), target (M, h, w) in [0, 1].
    several (M,) bool: this object's prompt is ambiguous (one click, or none), so the best of masks 1 to 3 answers and
    is taught; otherwise mask 0 is. The IoU head is taught on all four masks. Of an object that is not in the image
    only the object score is taught. ignored (M, h, w) bool: cells that are not counted.
    """
    masks, truth = judged(masks, target[:, None].expand_as(masks), None if ignored is None else ignored[:, None])
    visible = (target.flatten(1).amax(1) > 0.5).float()
    each = mask_loss(masks, truth, weights)
    best = each[:, 1:].min(1).values
    other = weights.single if weights.best is None else weights.best
    answer = torch.where(multimask_output, best + weights.single * each[:, 0], each[:, 0] + other * best)
    reached = hard_iou(masks.detach(), truth)
    named = {
        "mask": answer * visible,
        "spread": each.mean(1) * visible,
        "iou": (iou - reached).square().mean(1) * visible,
        "object_score": F.binary_cross_entropy_with_logits(object_score[:, 0], visible, reduction="none"),
    }
    named["total"] = (
        named["mask"]
        + weights.spread * named["spread"]
        + weights.iou * named["iou"]
        + weights.object_score * named["object_score"]
    )
    return named


def upstream_losses(
    masks: Tensor,
    iou: Tensor,
    object_score: Tensor,
    target: Tensor,
    weights: LossWeights,
    ignored: Tensor | None = None,
) -> dict[str, Tensor]:
    """The named losses (M,) of one step as Meta's training computes them, before division by the objects.

    masks (M, K, H, W) logits of the masks on offer, K 1 or 3, gated by object score and at the target's size; iou (M,
    K); object score (M, 1); target (M, H, W) bool. The mask with the smallest weighted sum of focal and dice loss is
    taught; the IoU of all of them, by absolute difference. Source: ``MultiStepMultiMasksAndIous`` with
    ``supervise_all_iou``, ``iou_use_l1_loss`` and ``pred_obj_scores``. ignored (M, H, W) bool: pixels that are not
    counted.
    """
    void = None if ignored is None else ignored[:, None]
    masks, truth = judged(masks, target[:, None].expand_as(masks).float(), void)
    visible = target.flatten(1).any(1).float()
    focal, dice = focal_loss(masks, truth), dice_loss(masks, truth)
    row = torch.arange(len(masks), device=masks.device)
    best = (weights.focal * focal + weights.dice * dice).argmin(1)
    named = {
        "focal": focal[row, best] * visible,
        "dice": dice[row, best] * visible,
        "iou": (iou - hard_iou(masks.detach(), truth)).abs().mean(1) * visible,
        "object_score": F.binary_cross_entropy_with_logits(object_score[:, 0], visible, reduction="none"),
    }
    named["total"] = (
        weights.focal * named["focal"]
        + weights.dice * named["dice"]
        + weights.iou * named["iou"]
        + weights.object_score * named["object_score"]
    )
    return named
