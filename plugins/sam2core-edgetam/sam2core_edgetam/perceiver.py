"""The memory encoder of EdgeTAM: SAM 2's, then a perceiver that says with 512 tokens what the map says with 4,096."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.memory.encoder import ConvMemoryEncoder
from sam2core.ops.attention import attend, merge_heads, split_heads
from sam2core.ops.position import sine_tokens
from sam2core.types import TokenBlock


class LatentAttention(nn.Module):
    """Pre-norm attention of one head without biases; a position is added to keys and values alike."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, query: Tensor, source: Tensor, position: Tensor | None = None) -> Tensor:
        """(B, Nq, C) reads (B, Nk, C), both normalised already."""
        key, value = self.k_proj(source), self.v_proj(source)
        if position is not None:
            key, value = key + position, value + position
        heads = (split_heads(tokens, 1) for tokens in (self.q_proj(query), key, value))
        return self.out_proj(merge_heads(attend(*heads)))


class LatentMlp(nn.Module):
    """Layer norm, then two linear layers without biases and a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, hidden, bias=False)
        self.linear2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(self.norm(x))))


class PerceiverLayer(nn.Module):
    """Latents read the map, then one another (EdgeTAM: ``PerceiverEncoderLayer``)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.source_norm = nn.LayerNorm(dim)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_attn = LatentAttention(dim)
        self.cross_mlp = LatentMlp(dim, 4 * dim)
        self.self_norm = nn.LayerNorm(dim)
        self.self_attn = LatentAttention(dim)
        self.self_mlp = LatentMlp(dim, 4 * dim)

    def forward(self, latents: Tensor, source: Tensor, position: Tensor | None = None) -> Tensor:
        latents = latents + self.cross_attn(self.cross_norm(latents), self.source_norm(source), position)
        latents = latents + self.cross_mlp(latents)
        own = self.self_norm(latents)
        latents = latents + self.self_attn(own, own)
        return latents + self.self_mlp(latents)


class Perceiver(nn.Module):
    """A map of memory tokens becomes `latents` that see all of it and `cells` x `cells` that see a window each.

    Both groups go through the same layers. The first group has no place; the second lies on a grid of `cells`, whatever
    the size of the map. Source: Zhou et al. 2025, "EdgeTAM: On-Device Track Anything Model" (2D Spatial Perceiver);
    EdgeTAM's class ``PerceiverResampler``.
    """

    def __init__(self, dim: int, *, latents: int, cells: int, layers: int) -> None:
        super().__init__()
        self.dim = dim
        self.cells = cells
        self.latents = nn.Parameter(torch.empty(latents, dim))
        self.cell_latents = nn.Parameter(torch.empty(cells * cells, dim))
        nn.init.normal_(self.latents)
        nn.init.normal_(self.cell_latents)
        self.layers = nn.ModuleList(PerceiverLayer(dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, block: TokenBlock) -> tuple[TokenBlock, TokenBlock]:
        """The map's block (B, h * w, C) to a block without a grid and a block on the grid of cells.

        Raises ValueError when the map's sides are no multiples of `cells`.
        """
        assert block.grid is not None
        height, width = block.grid
        if height % self.cells or width % self.cells:
            raise ValueError(
                f"a memory of {height} x {width} tokens cannot be cut into {self.cells} x {self.cells} windows: "
                f"the image's sides must be multiples of {16 * self.cells}"
            )
        tokens = block.tokens
        everywhere = self._read(self.latents.expand(tokens.shape[0], -1, -1), tokens, block.position)
        split = tokens.unflatten(1, (self.cells, height // self.cells, self.cells, width // self.cells))
        windows = split.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # (B * cells * cells, tokens of a window, C)
        own = self.cell_latents[:, None].repeat(tokens.shape[0], 1, 1)
        cells = self._read(own, windows, None).unflatten(0, (tokens.shape[0], -1)).flatten(1, 2)
        grid = (self.cells, self.cells)
        return (
            TokenBlock(everywhere, tokens.new_zeros(1, everywhere.shape[1], self.dim), grid=None),
            TokenBlock(cells, sine_tokens(grid, self.dim, tokens.dtype, tokens.device), grid=grid),
        )

    def _read(self, latents: Tensor, source: Tensor, position: Tensor | None) -> Tensor:
        for layer in self.layers:
            latents = layer(latents, source, position)
        return self.norm(latents)


class PerceiverMemoryEncoder(ConvMemoryEncoder):
    """SAM 2's memory encoder with a perceiver behind it: two blocks per frame, of `latents` and `cells` squared tokens.

    Options: `latents`, `cells` and `layers` of the perceiver; the others are those of `ConvMemoryEncoder`.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        *,
        latents: int = 256,
        cells: int = 16,
        layers: int = 2,
        mask_scale: float = 20.0,
        mask_bias: float = -10.0,
        occlusion_embed: bool = False,
    ) -> None:
        super().__init__(dim, memory_dim, mask_scale=mask_scale, mask_bias=mask_bias, occlusion_embed=occlusion_embed)
        self.perceiver = Perceiver(memory_dim, latents=latents, cells=cells, layers=layers)

    def forward(self, features: Tensor, mask: Tensor, object_score: Tensor) -> tuple[TokenBlock, ...]:
        """Two blocks, (B, latents, Cm) without a grid and (B, cells * cells, Cm) on one; see `ConvMemoryEncoder`."""
        (block,) = super().forward(features, mask, object_score)
        return self.perceiver(block)
