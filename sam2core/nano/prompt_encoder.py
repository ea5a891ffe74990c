"""Prompts that are drawn into the mask input."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.heads.prompt_encoder import PromptEncoder
from sam2core.types import Label, Prompt

DISC = 40.0  # of drawn prompts: the image's longer side over the radius of a click
DRAWN, INSIDE, GROUND = 16.0, 2.0, -8.0  # and their logits: clicks, the inside of a box, and all the rest


class DrawnPromptEncoder(PromptEncoder):
    """SAM's prompt encoder, which also draws what is said into the mask input.

    A small model that saw little data learns to follow an image of the prompt long before it learns to read codes of
    places. It has no weights of its own. Source: Sofiiuk et al. 2022, "Reviving Iterative Training".
    """

    unrolled = True

    def mask_input(self, prompt: Prompt) -> tuple[Tensor | None, Tensor | None]:
        """As `PromptEncoder`, with the prompt's points drawn into it."""
        mask, present = super().mask_input(prompt)
        return self._drawn(prompt, mask) if prompt.points.shape[1] else (mask, present)

    def _drawn(self, prompt: Prompt, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mask input logits (B, 1, h, w) with the prompt drawn into them, and the rows (B,) that hold anything.

        Clicks are discs of 1/40 of the image's longer side, high where positive and low where negative, later ones
        over earlier. Rows without a mask input of their own get a low ground, on which a box is slightly high.
        """
        points, labels = prompt.points.float(), prompt.labels
        (height, width), stride = self.mask_input_size, self.image_size[0] / self.mask_input_size[0]
        ys = ((torch.arange(height, device=points.device) + 0.5) * stride - 0.5).view(1, 1, -1, 1)
        xs = ((torch.arange(width, device=points.device) + 0.5) * stride - 0.5).view(1, 1, 1, -1)
        x, y = points[..., 0, None, None], points[..., 1, None, None]  # (B, P, 1, 1)
        kind = labels[..., None, None]
        beyond = (kind == Label.TOP_LEFT) & ((xs < x) | (ys < y)) | (kind == Label.BOTTOM_RIGHT) & ((xs > x) | (ys > y))
        corner = (labels == Label.TOP_LEFT) | (labels == Label.BOTTOM_RIGHT)
        boxed = corner.any(1)[:, None, None] & ~beyond.any(1)
        mask_input = torch.where(boxed, INSIDE, GROUND)[:, None]
        clicked = (labels == Label.POSITIVE) | (labels == Label.NEGATIVE)
        said = clicked.any(1) | corner.any(1)
        if mask is not None:
            own = said.new_ones(said.shape) if prompt.has_mask_input is None else prompt.has_mask_input
            mask_input = torch.where(own.view(-1, 1, 1, 1), mask.float(), mask_input)
            said = said | own
        near = (xs - x) ** 2 + (ys - y) ** 2 <= (max(self.image_size) / DISC) ** 2
        for index in range(points.shape[1]):
            here = near[:, index : index + 1] & clicked[:, index].view(-1, 1, 1, 1)
            sign = torch.where(labels[:, index] == Label.POSITIVE, DRAWN, -DRAWN).view(-1, 1, 1, 1)
            mask_input = torch.where(here, sign, mask_input)
        return mask_input, said
