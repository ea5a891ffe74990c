"""Features and a mask become memory tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2core.ops.layers import ConvNextBlock, LayerNorm2d
from sam2core.ops.position import sine_tokens
from sam2core.types import TokenBlock


class ConvMemoryEncoder(nn.Module):
    """The raw image features plus the downsampled mask, fused by ConvNeXt blocks into one map of memory tokens.

    Options: the mask's probability enters as `mask_scale` * p + `mask_bias`; `occlusion_embed` adds a learned vector to
    the memory of an absent object (SAM 2.1); `blocks` ConvNeXt blocks with initial `layer_scale`.
    Source: Meta's ``MemoryEncoder``, and ``no_obj_embed_spatial`` of ``SAM2Base``.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        *,
        mask_scale: float = 20.0,
        mask_bias: float = -10.0,
        occlusion_embed: bool = True,
        blocks: int = 2,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        self.mask_scale = mask_scale
        self.mask_bias = mask_bias
        self.memory_dim = memory_dim
        stem: list[nn.Module] = []
        width = 1
        for _ in range(4):  # stride 16
            stem += [nn.Conv2d(width, 4 * width, kernel_size=3, stride=2, padding=1), LayerNorm2d(4 * width), nn.GELU()]
            width *= 4
        self.mask_stem = nn.Sequential(*stem, nn.Conv2d(width, dim, kernel_size=1))
        self.feature_proj = nn.Conv2d(dim, dim, kernel_size=1)
        self.fuser = nn.ModuleList(ConvNextBlock(dim, layer_scale=layer_scale) for _ in range(blocks))
        self.out_proj = nn.Conv2d(dim, memory_dim, kernel_size=1) if memory_dim != dim else nn.Identity()
        if occlusion_embed:
            self.occlusion_embed = nn.Parameter(torch.empty(1, memory_dim))
            nn.init.trunc_normal_(self.occlusion_embed, std=0.02)
        else:
            self.register_parameter("occlusion_embed", None)

    def forward(self, features: Tensor, mask: Tensor, object_score: Tensor) -> tuple[TokenBlock, ...]:
        """One block of (B, h * w, Cm) tokens.

        From features (1 or B, C, h, w), mask probabilities (B, 1, 16h, 16w) and object scores (B, 1).
        """
        mask = self.mask_stem((mask * self.mask_scale + self.mask_bias).to(features.dtype))
        x = self.feature_proj(features) + mask
        for block in self.fuser:
            x = block(x)
        x = self.out_proj(x)
        if self.occlusion_embed is not None:
            absent = (object_score <= 0).to(x.dtype)[..., None, None]
            x = x + absent * self.occlusion_embed[..., None, None]
        grid = (x.shape[-2], x.shape[-1])
        position = sine_tokens(grid, self.memory_dim, x.dtype, x.device)
        return (TokenBlock(tokens=x.flatten(2).transpose(1, 2), position=position, grid=grid),)
