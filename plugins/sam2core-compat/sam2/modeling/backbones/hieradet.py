"""Hiera, the image trunk, block by block as Meta's sam2 has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2.modeling.backbones.utils import PatchEmbed, window_partition, window_unpartition
from sam2.modeling.sam2_utils import MLP, DropPath
from sam2.untouched import written


def do_pool(x: Tensor, pool: nn.Module | None, norm: nn.Module | None = None) -> Tensor:
    """A map (B, H, W, C) pooled, and normed if there is a norm."""
    if pool is None:
        return x
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return norm(x) if norm else x


class MultiScaleAttention(nn.Module):
    """Self-attention over a map or a window (B, H, W, C), whose queries may be pooled."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, q_pool: nn.Module | None = None):
        super().__init__()
        self.dim = dim
        self.dim_out = dim_out
        self.num_heads = num_heads
        self.q_pool = q_pool
        self.qkv = nn.Linear(dim, dim_out * 3)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).unbind(2)
        if self.q_pool:
            q = do_pool(q.reshape(batch, height, width, -1), self.q_pool)
            height, width = q.shape[1:3]
            q = q.reshape(batch, height * width, self.num_heads, -1)
        x = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, -1))


class MultiScaleBlock(nn.Module):
    """A pre-norm block; `window_size` 0 is attention over the whole map, `q_stride` pools the queries."""

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: type[nn.Module] | str = "LayerNorm",
        q_stride: tuple[int, int] | None = None,
        act_layer: type[nn.Module] = nn.GELU,
        window_size: int = 0,
    ):
        super().__init__()
        norm = partial(getattr(nn, norm_layer), eps=1e-6) if isinstance(norm_layer, str) else norm_layer
        self.dim = dim
        self.dim_out = dim_out
        self.norm1 = norm(dim)
        self.window_size = window_size
        self.pool, self.q_stride = None, q_stride
        if q_stride:
            self.pool = nn.MaxPool2d(kernel_size=q_stride, stride=q_stride, ceil_mode=False)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads=num_heads, q_pool=self.pool)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = norm(dim_out)
        self.mlp = MLP(dim_out, int(dim_out * mlp_ratio), dim_out, num_layers=2, activation=act_layer)
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, H, W, C) to (B, H', W', C'): halved where queries are pooled."""
        shortcut = x
        x = self.norm1(x)
        if self.dim != self.dim_out:  # the shortcut of a new stage is of the normed input
            shortcut = do_pool(self.proj(x), self.pool)
        if self.window_size:
            x, padded = window_partition(x, self.window_size)
        x = self.attn(x)
        if self.window_size:
            size, window = (shortcut.shape[1], shortcut.shape[2]), self.window_size
            if self.q_stride:
                window //= self.q_stride[0]
                padded = (size[0] + -size[0] % window, size[1] + -size[1] % window)
            x = window_unpartition(x, window, padded, size)
        x = shortcut + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Hiera(nn.Module):
    """The image trunk: pixels (B, 3, H, W) to maps (B, C, H / s, W / s) at strides 4, 8, 16, 32.

    Paper: Ryali et al. 2023, "Hiera"; positions: Bolya et al. 2023, "Window Attention is Bugged".
    """

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        drop_path_rate: float = 0.0,
        q_pool: int = 3,
        q_stride: tuple[int, int] = (2, 2),
        stages: Sequence[int] = (2, 3, 16, 3),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        window_pos_embed_bkg_spatial_size: tuple[int, int] = (14, 14),
        window_spec: Sequence[int] = (8, 4, 14, 7),
        global_att_blocks: Sequence[int] | None = (12, 16, 20),
        weights_path=None,
        return_interm_layers=True,
    ):
        super().__init__()
        if len(stages) != len(window_spec):
            raise ValueError(f"each stage has a window: {len(stages)} stages and {len(window_spec)} windows do not fit")
        self.window_spec = window_spec
        self.q_stride = q_stride
        self.stage_ends = [sum(stages[: stage + 1]) - 1 for stage in range(len(stages))]
        if not 0 <= q_pool < len(stages):
            raise ValueError(f"q_pool is the number of stages that begin with pooling, 0 to {len(stages) - 1}")
        self.q_pool_blocks = [end + 1 for end in self.stage_ends[:-1]][:q_pool]
        self.return_interm_layers = return_interm_layers
        self.patch_embed = PatchEmbed(embed_dim=embed_dim)
        self.global_att_blocks = global_att_blocks
        self.window_pos_embed_bkg_spatial_size = window_pos_embed_bkg_spatial_size
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0]))
        self.blocks = nn.ModuleList()
        depth, stage, width = sum(stages), 0, embed_dim
        for index in range(depth):
            window = window_spec[stage]  # a stage's first block cuts windows of the stage before
            if global_att_blocks is not None and index in global_att_blocks:
                window = 0
            if index - 1 in self.stage_ends:
                width, num_heads, stage = int(embed_dim * dim_mul), int(num_heads * head_mul), stage + 1
            self.blocks.append(
                MultiScaleBlock(
                    dim=embed_dim,
                    dim_out=width,
                    num_heads=num_heads,
                    drop_path=drop_path_rate * index / max(depth - 1, 1),
                    q_stride=q_stride if index in self.q_pool_blocks else None,
                    window_size=window,
                )
            )
            embed_dim = width
        ends = self.stage_ends[::-1] if return_interm_layers else [depth - 1]
        self.channel_list = [self.blocks[end].dim_out for end in ends]
        if weights_path is not None:
            self.load_state_dict(torch.load(weights_path, map_location="cpu", weights_only=True), strict=False)

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        """The position code (1, H, W, C): a background grid, resized, plus a window's code tiled over it."""
        window = self.pos_embed_window
        background = F.interpolate(self.pos_embed, size=tuple(hw), mode="bicubic")
        tiled = window.tile([whole // part for whole, part in zip(background.shape, window.shape, strict=True)])
        return (background + tiled).permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)
        x = x + self._get_pos_embed((x.shape[1], x.shape[2]))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.stage_ends[-1] or (self.return_interm_layers and index in self.stage_ends):
                maps.append(x.permute(0, 3, 1, 2))
        return maps

    def get_layer_id(self, layer_name: str) -> int:
        """How deep a parameter lies, for learning rates that decay with depth: 0 for what comes before the blocks."""
        last = self.get_num_layers() + 1
        if "rel_pos" in layer_name:
            return last
        if "pos_embed" in layer_name or "patch_embed" in layer_name:
            return 0
        if "blocks" in layer_name:
            return int(layer_name.split("blocks")[1].split(".")[1]) + 1
        return last

    def get_num_layers(self) -> int:
        return len(self.blocks)


written(globals())
