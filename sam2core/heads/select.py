"""One mask or three, and the stability fallback: pure functions on a decoder's output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam2core.ops.masks import stability_score
from sam2core.types import DecoderOutput


@dataclass(frozen=True)
class Stability:
    """When the single mask is not to be trusted: its area at +`delta` is less than `threshold` of that at -`delta`."""

    delta: float = 0.05
    threshold: float = 0.98


def candidates(
    output: DecoderOutput, *, multimask_output: bool, stability: Stability | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The masks on offer (B, M, h, w), their predicted IoU (B, M) and their tokens (B, M, C); M is 3 or 1.

    With `multimask_output`, masks 1 to 3. Otherwise mask 0; where it is unstable, the best of the three replaces its
    logits and its IoU, while the token stays mask 0's (Meta's ``_dynamic_multimask_via_stability``).
    """
    if multimask_output:
        return output.masks[:, 1:], output.iou[:, 1:], output.tokens[:, 1:]
    masks, iou = output.masks[:, :1], output.iou[:, :1]
    if stability is not None:
        best = output.iou[:, 1:].argmax(dim=1) + 1
        row = torch.arange(best.shape[0], device=best.device)
        stable = stability_score(masks, stability.delta) >= stability.threshold
        iou = torch.where(stable, iou, output.iou[row, best].unsqueeze(1))
        masks = torch.where(stable[..., None, None], masks, output.masks[row, best].unsqueeze(1))
    return masks, iou, output.tokens[:, :1]
