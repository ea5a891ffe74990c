"""The image attends to itself, then to its memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops import rope
from sam2core.ops.attention import attend_projected, split_heads
from sam2core.ops.layers import linear_act
from sam2core.types import TokenBlock


class RopeAttention(nn.Module):
    """Attention whose queries and keys are turned by their place on a grid (Meta's ``RoPEAttention``)."""

    def __init__(self, dim: int, *, heads: int, key_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(key_dim, dim)
        self.v_proj = nn.Linear(key_dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_rotary: Tensor,
        key_rotary: Tensor,
        key_scale: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        q = rope.apply_rotary(split_heads(linear_act(query, self.q_proj), self.heads), query_rotary)
        k = rope.apply_rotary(split_heads(linear_act(key, self.k_proj), self.heads), key_rotary)
        if key_scale is not None:
            k = k * key_scale
        dropout = self.dropout if self.training else 0.0
        return linear_act(attend_projected(q, k, value, self.v_proj, memory_mask, dropout), self.out_proj)


class RopeMemoryLayer(nn.Module):
    """Pre-norm self-attention, attention to the memories, feed-forward (Meta's ``MemoryAttentionLayer``)."""

    def __init__(self, dim: int, memory_dim: int, *, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = RopeAttention(dim, heads=heads, key_dim=dim, dropout=dropout)
        self.cross_attn = RopeAttention(dim, heads=heads, key_dim=memory_dim, dropout=dropout)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rotary: Tensor,
        key_rotary: Tensor,
        key_scale: Tensor | None,
        memory_mask: Tensor | None,
    ) -> Tensor:
        return self.through(
            x, rotary, lambda y: self.cross_attn(y, keys, values, rotary, key_rotary, key_scale, memory_mask)
        )

    def through(self, x: Tensor, rotary: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer with the memories read as `read` does: normed tokens (B, N, C) to what they are told."""
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y, rotary, rotary))
        x = x + self.dropout(read(self.norm2(x)))
        return x + self.feed(x)

    def feed(self, x: Tensor) -> Tensor:
        """What the feed-forward half adds to each token (B, N, C)."""
        hidden = self.dropout(linear_act(self.norm3(x), self.linear1, F.relu))
        return self.dropout(linear_act(hidden, self.linear2))


class RopeMemoryAttention(nn.Module):
    """`layers` transformer layers that condition an image on memory blocks; all but object pointers are turned on their
    grids.

    The image's position is added once, times 0.1; memory positions are added to keys only, never to values.
    One image shared by many objects stays one until the first layer meets their memories.
    Source: Meta's ``MemoryAttention``.
    """

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        *,
        layers: int = 4,
        heads: int = 1,
        hidden: int = 2048,
        theta: float = 10000.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % (4 * heads):  # a row's and a column's place, each a pair of numbers
            raise ValueError(f"attention width {dim} cannot be split into {heads} heads, each a multiple of 4")
        self.theta = theta
        self.head_dim = dim // heads
        self.layers = nn.ModuleList(
            RopeMemoryLayer(dim, memory_dim, heads=heads, hidden=hidden, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, features: Tensor, position: Tensor, blocks: Sequence[TokenBlock], memory_mask: Tensor | None = None
    ) -> Tensor:
        """Features (1 or B, C, H, W), their position (1, C, H, W) and blocks of (B, N, Cm) to features (B, C, H, W).

        `memory_mask` (1 or B, N in all) marks the memory tokens that count; None: all of them.
        """
        x, *past = self.sequences(features, position, blocks)
        mask = None if memory_mask is None else memory_mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, *past, mask)
        return self.norm(x).transpose(1, 2).unflatten(2, features.shape[-2:])

    def sequences(
        self, features: Tensor, position: Tensor, blocks: Sequence[TokenBlock]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """What a layer takes: the image's tokens, keys and values of the past, turns of both, and the keys' scale."""
        x = (features + 0.1 * position).flatten(2).transpose(1, 2)
        values = torch.cat([block.tokens for block in blocks], dim=1)
        keys = torch.cat([block.tokens + block.position for block in blocks], dim=1)
        height, width = features.shape[-2:]
        rotary = rope.table((height, width), self.head_dim, self.theta, x.device)
        runs = tuple((block.grid, block.tokens.shape[1]) for block in blocks)
        key_rotary = rope.sequence(runs, self.head_dim, self.theta, x.device)
        key_scale = None
        if any(block.key_scale != 1.0 for block in blocks):
            key_scale = torch.cat([keys.new_full((block.tokens.shape[1], 1), block.key_scale) for block in blocks])
        return x, keys, values, rotary, key_rotary, key_scale
