"""Hiera: a hierarchical vision transformer with window attention (Ryali et al. 2023), as SAM 2 uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.attention import attend, merge_heads
from sam2core.ops.layers import DropPath, Mlp, linear_act
from sam2core.ops.position import bicubic
from sam2core.ops.windows import merge, partition


def _pool(maps: Tensor) -> Tensor:
    """Halve a (B, H, W, C) map by 2x2 maxima."""
    return F.max_pool2d(maps.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Overlapping 7x7 patches at stride 4: (B, 3, H, W) to (B, H / 4, W / 4, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class PooledAttention(nn.Module):
    """Self-attention over a map or a window (B, H, W, C); with `pool`, queries are 2x2 maxima and the map halves.

    The output is not projected yet: `proj` is for the caller, who has no need to project the padding of windows.
    """

    def __init__(self, dim: int, dim_out: int, *, heads: int, pool: bool) -> None:
        super().__init__()
        if dim_out % heads:
            raise ValueError(f"attention width {dim_out} cannot be split into {heads} heads")
        self.heads = heads
        self.pool = pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        q, k, v = linear_act(x, self.qkv).view(batch, height * width, 3, self.heads, -1).unbind(2)
        if self.pool:
            q = _pool(q.reshape(batch, height, width, -1))
            height, width = q.shape[1:3]
            q = q.reshape(batch, height * width, self.heads, -1)
        x = merge_heads(attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)))
        return x.view(batch, height, width, -1)


class HieraBlock(nn.Module):
    """A pre-norm transformer block; `window` 0 means attention over the whole map.

    What it adds to may be of a finer type than its linear layers (`Hiera.to_mixed_precision`). The first block of a
    stage widens and pools. Its shortcut is made from the *normed* input, and it cuts windows of the previous stage's
    size, which the pooling halves (Meta's ``MultiScaleBlock``).
    """

    def __init__(
        self, dim: int, dim_out: int, *, heads: int, window: int, pool: bool, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        if pool and window % 2:
            raise ValueError(f"a window that is pooled must be even, not {window}")
        self.window = window
        self.pool = pool
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PooledAttention(dim, dim_out, heads=heads, pool=pool)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio), dim_out, layers=2, activation=F.gelu)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(x)
        return x + self.drop_path(self.feed(x))

    def mix(self, x: Tensor) -> Tensor:
        """The first half: a map (B, H, W, C) plus what its places read from each other, (B, H', W', C')."""
        normed = self.norm1(x).to(self.attn.qkv.weight.dtype)
        shortcut = x
        if self.proj is not None:
            shortcut = linear_act(normed, self.proj)
            if self.pool:
                shortcut = _pool(shortcut)
            shortcut = shortcut.to(x.dtype)
        if self.window:
            windows, padded = partition(normed, self.window)
            if self.pool:
                padded = (padded[0] // 2, padded[1] // 2)
            x = merge(self.attn(windows), padded, (shortcut.shape[1], shortcut.shape[2]))
        else:
            x = self.attn(normed)
        return shortcut + self.drop_path(linear_act(x, self.attn.proj))

    def feed(self, x: Tensor) -> Tensor:
        """What the second half adds to each place of a map (B, H, W, C)."""
        return self.mlp(self.norm2(x).to(self.attn.qkv.weight.dtype))


class Hiera(nn.Module):
    """The image trunk: (B, 3, H, W) pixels to four maps (B, C, H / s, W / s) at strides 4, 8, 16, 32.

    H and W must be multiples of 32. Each stage doubles channels and heads and halves the map. Position is a learned
    background grid, bicubically resized to the stride-4 map, plus a learned window-sized code tiled over it.

    Options: `embed_dim` channels and `heads` heads of the first stage; `stages` blocks per stage; `windows` window size
    per stage, in tokens; `global_blocks` indices of blocks with global attention; `background` size of the position
    grid; `drop_path` largest rate of stochastic depth, reached linearly. Source: Meta's ``Hiera``.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)

    def __init__(
        self,
        embed_dim: int,
        *,
        heads: int,
        stages: Sequence[int],
        windows: Sequence[int],
        global_blocks: Sequence[int],
        background: Sequence[int] = (7, 7),
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not len(stages) == len(windows) == len(self.strides):
            raise ValueError(f"Hiera has {len(self.strides)} stages; got stages {stages} and windows {windows}")
        depth = sum(stages)
        self.channels: tuple[int, ...] = tuple(embed_dim * 2**stage for stage in range(len(stages)))
        self.patch_embed = PatchEmbed(embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, windows[0], windows[0]))
        self.blocks = nn.ModuleList()
        self._last: tuple[int, ...] = tuple(sum(stages[: stage + 1]) - 1 for stage in range(len(stages)))
        width = embed_dim
        for stage, count in enumerate(stages):
            for place in range(count):
                index = len(self.blocks)
                entering = stage > 0 and place == 0
                window = windows[stage - 1] if entering else windows[stage]
                self.blocks.append(
                    HieraBlock(
                        width,
                        self.channels[stage],
                        heads=heads * 2**stage,
                        window=0 if index in global_blocks else window,
                        pool=entering,
                        mlp_ratio=mlp_ratio,
                        drop_path=drop_path * index / max(depth - 1, 1),
                    )
                )
                width = self.channels[stage]

    def position(self, grid: tuple[int, int]) -> Tensor:
        """The position code (1, H, W, C) of a stride-4 grid, in the parameters' type."""
        window = self.pos_embed_window
        tiles = (grid[0] // window.shape[2], grid[1] // window.shape[3])
        if (tiles[0] * window.shape[2], tiles[1] * window.shape[3]) != grid:
            raise ValueError(
                f"image sides must be multiples of {4 * window.shape[2]} pixels; got {4 * grid[0]}x{4 * grid[1]}"
            )
        background = bicubic(self.pos_embed[0].permute(1, 2, 0).float(), grid)
        tiled = window[0].permute(1, 2, 0).float().tile(*tiles, 1)
        return (background + tiled).unsqueeze(0).to(self.pos_embed.dtype)

    def to_mixed_precision(self, dtype: torch.dtype) -> None:
        """To half precision, but for the first layer, the norms, the position and the sum that the blocks add to."""
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                part.to(dtype)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed(image)
        x = x + self.position((x.shape[1], x.shape[2]))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._last:
                maps.append(x.permute(0, 3, 1, 2))
        return maps


def hiera_t(*, drop_path: float = 0.0) -> Hiera:
    """Hiera tiny: 26.85 M parameters."""
    return Hiera(96, heads=1, stages=(1, 2, 7, 2), windows=(8, 4, 14, 7), global_blocks=(5, 7, 9), drop_path=drop_path)


def hiera_s(*, drop_path: float = 0.0) -> Hiera:
    """Hiera small: 33.95 M parameters."""
    return Hiera(
        96, heads=1, stages=(1, 2, 11, 2), windows=(8, 4, 14, 7), global_blocks=(7, 10, 13), drop_path=drop_path
    )


def hiera_b_plus(*, drop_path: float = 0.0) -> Hiera:
    """Hiera base+: 68.68 M parameters."""
    return Hiera(
        112,
        heads=2,
        stages=(2, 3, 16, 3),
        windows=(8, 4, 14, 7),
        global_blocks=(12, 16, 20),
        background=(14, 14),
        drop_path=drop_path,
    )


def hiera_l(*, drop_path: float = 0.0) -> Hiera:
    """Hiera large: 212.15 M parameters."""
    return Hiera(
        144, heads=2, stages=(2, 6, 36, 4), windows=(8, 4, 16, 8), global_blocks=(23, 33, 43), drop_path=drop_path
    )


def small_positions(trunk: Hiera) -> Hiera:
    """Start the position codes at small random values: a short training run never leaves zero otherwise."""
    nn.init.trunc_normal_(trunk.pos_embed, std=0.02)
    nn.init.trunc_normal_(trunk.pos_embed_window, std=0.02)
    return trunk


def hiera_micro(*, drop_path: float = 0.0) -> Hiera:
    """Hiera micro: the full architecture in the smallest size that still uses all of it; for tests."""
    return small_positions(
        Hiera(8, heads=1, stages=(1, 1, 2, 1), windows=(8, 4, 6, 3), global_blocks=(3,), drop_path=drop_path)
    )


def hiera(
    *,
    embed_dim: int = 16,
    heads: int = 1,
    stages: Sequence[int] = (1, 2, 4, 1),
    windows: Sequence[int] = (8, 4, 8, 4),
    global_blocks: Sequence[int] = (5,),
    drop_path: float = 0.0,
) -> Hiera:
    """A Hiera of any size, by its options (see `Hiera`); as it is, 0.41 M parameters for a student of few."""
    return small_positions(
        Hiera(embed_dim, heads=heads, stages=stages, windows=windows, global_blocks=global_blocks, drop_path=drop_path)
    )
