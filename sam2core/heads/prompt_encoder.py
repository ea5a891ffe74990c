"""Points, boxes-as-points and masks become sparse and dense embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.layers import LayerNorm2d
from sam2core.ops.position import cell_centres, fourier
from sam2core.types import Label, Prompt

DISC = 40.0  # of drawn prompts: the image's longer side over the radius of a click
DRAWN, INSIDE, GROUND = 16.0, 2.0, -8.0  # and their logits: clicks, the inside of a box, and all the rest


class PromptEncoder(nn.Module):
    """What the user says, as tokens and a map.

    A point is the random Fourier code of its place plus a learned code of its label; a padding point is one learned
    code. A mask input is a small convolutional stem at stride 16; its absence is a learned constant.
    `image_size` is (H, W) in model pixels. `draw` also draws what is said into the mask input (see `drawn`): a small
    model that saw little data learns to follow a picture of the prompt long before it learns to read codes of places.
    Source: upstream ``PromptEncoder``; drawn clicks: Sofiiuk et al. 2022, "Reviving Iterative Training".
    """

    frequencies: Tensor

    def __init__(self, dim: int, image_size: tuple[int, int], *, mask_channels: int = 16, draw: bool = False) -> None:
        super().__init__()
        self.image_size = image_size
        self.draw = draw
        # the Gaussian matrix is part of the checkpoint
        self.register_buffer("frequencies", torch.randn(2, dim // 2))
        self.label_embed = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.padding_embed = nn.Embedding(1, dim)
        self.mask_stem = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, kernel_size=1),
        )
        self.no_mask = nn.Embedding(1, dim)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PromptEncoder:
        # Half precision would move clicks by pixels, so the matrix stays fp32 whatever the weights become.
        exact = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype != torch.float32:
            self.frequencies = exact.float().to(self.frequencies.device)
        return self

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """The size (h, w) of a mask input: a quarter of the image."""
        return self.image_size[0] // 4, self.image_size[1] // 4

    def position(self, grid: tuple[int, int]) -> Tensor:
        """The dense position code (1, dim, H, W) of a grid, at the cells' centres."""
        code = fourier(cell_centres(grid, self.frequencies.device), self.frequencies)
        return code.permute(2, 0, 1).unsqueeze(0).to(self.no_mask.weight.dtype)

    def forward(self, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tokens (B, P', dim), the map (B, dim, h / 4, w / 4) or (1, dim, 1, 1), and which tokens count.

        The last is (B, P') bool for a ragged prompt, otherwise None: all count. P' is P + 1 for the padding token, or
        0 when P is 0.
        """
        sparse, token_mask = self._points(prompt)
        return sparse, self._mask(prompt), token_mask

    def _points(self, prompt: Prompt) -> tuple[Tensor, Tensor | None]:
        dtype = self.no_mask.weight.dtype
        points, labels = prompt.points, prompt.labels
        if points.shape[1] == 0:
            return points.new_zeros(points.shape[0], 0, self.no_mask.embedding_dim, dtype=dtype), None
        # a padding point goes last, in rows that have any point at all
        last = torch.full_like(labels[:, :1], int(Label.PADDING))
        if prompt.ragged:
            last = torch.where((labels == Label.IGNORED).all(dim=1, keepdim=True), int(Label.IGNORED), last)
        labels = torch.cat([labels, last], dim=1)
        points = torch.cat([points, torch.zeros_like(points[:, :1])], dim=1)

        height, width = self.image_size  # filled on the device: a copy from the host would wait for it
        extent = torch.cat([points.new_full((1,), width), points.new_full((1,), height)])
        code = fourier((points + 0.5) / extent, self.frequencies)  # clicks mean pixel centres
        learned: list[Tensor] = [embed.weight for embed in (self.padding_embed, *self.label_embed)]
        table = torch.cat(learned).to(code.dtype)
        known = (labels >= Label.PADDING) & (labels <= Label.BOTTOM_RIGHT)
        said = table[(labels.clamp(Label.PADDING, Label.BOTTOM_RIGHT) - Label.PADDING).long()]
        placed = (labels != Label.PADDING).unsqueeze(-1)
        tokens = torch.where(placed, code, 0.0) + torch.where(known.unsqueeze(-1), said, 0.0)
        return tokens.to(dtype), labels != Label.IGNORED if prompt.ragged else None

    def _mask(self, prompt: Prompt) -> Tensor:
        absent = self.no_mask.weight[0].view(1, -1, 1, 1)
        mask, hinted = prompt.mask_input, prompt.has_mask_input
        if mask is not None and mask.shape[-2:] != self.mask_input_size:
            mask = F.interpolate(
                mask.float(), size=self.mask_input_size, mode="bilinear", align_corners=False, antialias=True
            )
        if self.draw and prompt.points.shape[1]:
            mask, hinted = self.drawn(prompt, mask)
        if mask is None:
            return absent
        dense = self.mask_stem(mask.to(absent.dtype))
        if hinted is None:
            return dense
        return torch.where(hinted.view(-1, 1, 1, 1), dense, absent)

    def drawn(self, prompt: Prompt, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hint logits (B, 1, h, w) with the prompt drawn into them, and the rows (B,) that hold anything.

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
