"""Dense supervision of the trunk: what lies under a click against every pixel, without the decoder's attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.training.losses import LossWeights, hard_iou, judged, mask_loss, soft_target
from sam2core.training.prompting import sample_click
from sam2core.training.seeded_random import SeededRandom
from sam2core.types import ImageFeatures

DENSE = 30  # tag of draws
CLICKS = 2
SHARPNESS, SAME = 6.0, 0.35  # of the cosine logits: slope, and the cosine of even odds


def affinity(
    decoder: Any,
    features: ImageFeatures,
    embedding: Tensor,
    masks: Tensor,
    weights: LossWeights,
    draws: SeededRandom,
    ignored: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of three comparisons for masks (B, N, H, W), and the IoU of the first, both means over objects.

    They share the clicks: the upscaled map and the embedding each with itself, by cosine, which works from the first
    step on; and the mask filters made from the embedding under the click with the upscaled map, as if the mask tokens'
    attention were already perfect. Cosines are taken about the mean of the batch, so here alone a process of several
    sees less than the whole batch. ignored (B, H, W) bool: pixels that are not counted.
    """
    pictures, count = masks.shape[:2]
    objects = masks.flatten(0, 1)
    points = [sample_click(objects, draws.at(DENSE, n), centre=0.5).view(pictures, count, 2) for n in range(CLICKS)]
    size = embedding.new_tensor([masks.shape[-1], masks.shape[-2]])
    places = ((torch.cat(points, 1) + 0.5) / size * 2 - 1)[:, :, None]

    maps = F.layer_norm(embedding.permute(0, 2, 3, 1), embedding.shape[1:2]).permute(0, 3, 1, 2)
    fine = decoder.enlarge(maps, features.high_res_features)
    target = soft_target(masks, (fine.shape[-2], fine.shape[-1])).repeat(1, CLICKS, 1, 1)

    alike = _alike(fine, places)
    coarse = F.interpolate(_alike(embedding, places), size=fine.shape[-2:], mode="bilinear", align_corners=False)
    content = F.grid_sample(maps, places, align_corners=False)[..., 0].transpose(1, 2)
    mlp = decoder.mask_mlps[int(draws.shared(DENSE).integers(len(decoder.mask_mlps)))]
    filtered = (mlp(content) @ fine.flatten(2)).unflatten(2, fine.shape[-2:])
    void = None
    if ignored is not None:
        void = soft_target(ignored[:, None], (fine.shape[-2], fine.shape[-1])) > 0
    losses = [mask_loss(*judged(logits, target, void), weights).mean() for logits in (alike, coarse, filtered)]
    return losses[0] + 0.5 * losses[1] + 0.5 * losses[2], hard_iou(alike.detach(), target).mean()


def _alike(maps: Tensor, places: Tensor) -> Tensor:
    """Cosine of a map (B, C, h, w) at places (B, P, 1, 2) in [-1, 1] with all of it, as logits (B, P, h, w)."""
    directions = F.normalize(maps - maps.mean((0, 2, 3), keepdim=True), dim=1)
    under = F.normalize(F.grid_sample(directions, places, align_corners=False)[..., 0].transpose(1, 2), dim=-1)
    return SHARPNESS * ((under @ directions.flatten(2)).unflatten(2, maps.shape[-2:]) - SAME)
