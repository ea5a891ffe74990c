"""The plain vision transformers of EfficientTAM: one map, at stride 16."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.attention import attend, merge_heads, split_heads
from sam2core.ops.layers import DropPath, Mlp
from sam2core.ops.windows import merge, partition

PATCH = 16


class Attention(nn.Module):
    """Self-attention of a map (B, H, W, C) or of its windows."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        query, key, value = (split_heads(tokens, self.heads) for tokens in self.qkv(x.flatten(1, 2)).chunk(3, dim=-1))
        return self.proj(merge_heads(attend(query, key, value))).unflatten(1, size)


class Block(nn.Module):
    """A pre-norm transformer block; with `window`, attention stays inside windows of that side (0: everywhere)."""

    def __init__(self, dim: int, heads: int, *, window: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim, dim, layers=2, activation=F.gelu)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.window:
            size = (y.shape[1], y.shape[2])
            windows, padded = partition(y, self.window)
            y = merge(self.attn(windows), padded, size)
        else:
            y = self.attn(y)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches of 16 x 16 pixels to tokens (B, H / 16, W / 16, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


class PlainViT(nn.Module):
    """A ViT with attention inside windows of 14 except in `global_blocks`; gives one map, at stride 16.

    The position table was trained on a 14 x 14 grid and is resized; its first row, for a class token, is not used.
    Source: Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection"; Xiong et al. 2024,
    "Efficient Track Anything"; EfficientTAM's class ``ViT``.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        depth: int = 12,
        window: int = 14,
        global_blocks: tuple[int, ...] = (2, 5, 8, 11),
        grid: int = 14,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.empty(1, grid * grid + 1, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, window=0 if block in global_blocks else window, drop_path=rate)
            for block, rate in enumerate(rates)
        )
        self.channels = (dim,)
        self.strides = (PATCH,)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised pixels (B, 3, H, W) to one map (B, dim, H / 16, W / 16)."""
        x = self.patch_embed(image)
        x = x + self._position((x.shape[1], x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return [x.permute(0, 3, 1, 2)]

    def _position(self, size: tuple[int, int]) -> Tensor:
        table = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid))
        if size == (self.grid, self.grid):
            return table
        table = table.permute(0, 3, 1, 2)
        resized = F.interpolate(table.float(), size=size, mode="bicubic", align_corners=False)
        return resized.to(table.dtype).permute(0, 2, 3, 1)

    def layer_id(self, name: str) -> int:
        """The depth of the parameter `name`, for layer-wise learning rates: block n is n + 1, all else comes before."""
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0


def vit_ti(*, drop_path: float = 0.0) -> PlainViT:
    """The tiny trunk: 12 blocks of width 192."""
    return PlainViT(192, heads=3, drop_path=drop_path)


def vit_s(*, drop_path: float = 0.0) -> PlainViT:
    """The small trunk: 12 blocks of width 384."""
    return PlainViT(384, heads=6, drop_path=drop_path)
