"""Points, boxes-as-points and masks become sparse and dense embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.layers import LayerNorm2d
from sam2core.ops.position import cell_centres, fourier
from sam2core.types import Label, Prompt


class PromptEncoder(nn.Module):
    """What the user says, as tokens and a map.

    A point is the random Fourier code of its place plus a learned code of its label; a padding point is one learned
    code. A mask input is a small convolutional stem at stride 16; its absence is a learned constant.
    `image_size` is (H, W) in model pixels. Source: Meta's ``PromptEncoder``.
    """

    frequencies: Tensor

    def __init__(self, dim: int, image_size: tuple[int, int], *, mask_channels: int = 16) -> None:
        super().__init__()
        self.image_size = image_size
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
        mask, present = self.mask_input(prompt)
        if mask is None:
            return absent
        dense = self.mask_stem(mask.to(absent.dtype))
        if present is None:
            return dense
        return torch.where(present.view(-1, 1, 1, 1), dense, absent)

    def mask_input(self, prompt: Prompt) -> tuple[Tensor | None, Tensor | None]:
        """The mask input (B, 1, h, w) at its size, None for no row, and the rows (B,) that have one, None for all."""
        mask = prompt.mask_input
        if mask is not None and mask.shape[-2:] != self.mask_input_size:
            mask = F.interpolate(
                mask.float(), size=self.mask_input_size, mode="bilinear", align_corners=False, antialias=True
            )
        return mask, prompt.has_mask_input
