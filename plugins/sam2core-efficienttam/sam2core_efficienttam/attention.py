"""Memory attention over pooled keys: a quarter of the tokens, and a word for how many each stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sam2core.memory.attention import RopeAttention, RopeMemoryAttention, RopeMemoryLayer
from sam2core.ops import rope
from sam2core.ops.attention import attend, merge_heads, split_heads
from sam2core.types import TokenBlock

SIDE = 2  # windows of 2 x 2 tokens become one
COUNT = math.log(SIDE * SIDE)
"""What the pooled keys get, so that each weighs as the four it stands for."""


def pool(tokens: Tensor, blocks: Sequence[TokenBlock]) -> Tensor:
    """Means of windows of 2 x 2 over the blocks (..., N, d) that lie on a grid; the others stay as they are."""
    parts = []
    for part, block in zip(tokens.split([block.tokens.shape[1] for block in blocks], dim=-2), blocks):
        if block.grid is not None:
            height, width = block.grid
            windows = part.unflatten(-2, (height // SIDE, SIDE, width // SIDE, SIDE))
            part = windows.mean(dim=(-4, -2)).flatten(-3, -2)
        parts.append(part)
    return torch.cat(parts, dim=-2)


class PooledRopeAttention(RopeAttention):
    """Attention to the memories whose keys are pooled after they were turned, and whose values are pooled.

    `count` says where log 4 is added: to the ``"logits"`` of pooled keys, or to their ``"keys"``, every channel, which
    is another function but lets fused attention run (EfficientTAM's ``EfficientRoPEAttention1`` and ``2``).
    """

    COUNTS = ("logits", "keys")

    def __init__(self, dim: int, *, heads: int, key_dim: int, dropout: float, count: str) -> None:
        super().__init__(dim, heads=heads, key_dim=key_dim, dropout=dropout)
        if count not in self.COUNTS:
            raise ValueError(f"count is one of {', '.join(self.COUNTS)}, not {count!r}")
        self.count = count

    def read(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_rotary: Tensor,
        key_rotary: Tensor,
        key_scale: Tensor | None,
        blocks: Sequence[TokenBlock],
        memory_mask: Tensor | None,
    ) -> Tensor:
        """(B, Nq, C) reads keys and values (B, N, Cm) of `blocks`; `memory_mask` marks the pooled tokens that count."""
        q = rope.apply_rotary(split_heads(self.q_proj(query), self.heads), query_rotary)
        turned = rope.apply_rotary(split_heads(self.k_proj(key), self.heads), key_rotary)
        k = pool(turned if key_scale is None else turned * key_scale, blocks)
        v = split_heads(self.v_proj(pool(value, blocks)), self.heads)
        pooled = torch.cat([q.new_full((_length(block),), COUNT * (block.grid is not None)) for block in blocks])
        bias = None
        if self.count == "keys":
            k = k + pooled[:, None]
        else:
            bias = pooled[None, None, None, :]
        if memory_mask is not None:
            bias = torch.zeros_like(pooled) if bias is None else bias
            bias = torch.where(memory_mask[:, None, None, :], bias, -torch.inf)
        return self.out_proj(merge_heads(attend(q, k, v, bias, self.dropout if self.training else 0.0)))


def _length(block: TokenBlock) -> int:
    return block.tokens.shape[1] // (1 if block.grid is None else SIDE * SIDE)


class PooledMemoryLayer(RopeMemoryLayer):
    """`RopeMemoryLayer` whose attention to the memories is pooled."""

    def __init__(self, dim: int, memory_dim: int, *, heads: int, hidden: int, dropout: float, count: str) -> None:
        super().__init__(dim, memory_dim, heads=heads, hidden=hidden, dropout=dropout)
        self.cross_attn = PooledRopeAttention(dim, heads=heads, key_dim=memory_dim, dropout=dropout, count=count)

    def read(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rotary: Tensor,
        key_rotary: Tensor,
        key_scale: Tensor | None,
        blocks: Sequence[TokenBlock],
        memory_mask: Tensor | None,
    ) -> Tensor:
        """The layer with pooled memories."""
        attend = self.cross_attn.read
        return self.through(
            x, rotary, lambda y: attend(y, keys, values, rotary, key_rotary, key_scale, blocks, memory_mask)
        )


class PooledMemoryAttention(RopeMemoryAttention):
    """`RopeMemoryAttention` that reads more than one remembered frame in windows of 2 x 2 tokens.

    Object pointers are not pooled, and the memory of a single frame is read in full. `count`: see
    `PooledRopeAttention`. Source: Xiong et al. 2024, "Efficient Track Anything", section 3.3 (efficient memory
    cross-attention).
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
        count: str = "keys",
    ) -> None:
        super().__init__(dim, memory_dim, layers=0, heads=heads, hidden=hidden, theta=theta, dropout=dropout)
        self.layers.extend(
            PooledMemoryLayer(dim, memory_dim, heads=heads, hidden=hidden, dropout=dropout, count=count)
            for _ in range(layers)
        )

    def forward(
        self, features: Tensor, position: Tensor, blocks: Sequence[TokenBlock], memory_mask: Tensor | None = None
    ) -> Tensor:
        """See `RopeMemoryAttention`. With `memory_mask`, both ways are computed, and the tokens that count decide."""
        on_grid = [index for index, block in enumerate(blocks) if block.grid is not None]
        lengths = [block.tokens.shape[1] for block in blocks]
        single = features.shape[-2] * features.shape[-1]
        if sum(lengths[index] for index in on_grid) <= single:
            return super().forward(features, position, blocks, memory_mask)
        if memory_mask is None:
            return self._pooled(features, position, blocks, None)
        parts = memory_mask.split(lengths, dim=1)
        counted = sum(parts[index].sum(dim=1) for index in on_grid)
        pooled = self._pooled(features, position, blocks, pool(memory_mask[..., None].float(), blocks)[..., 0] > 0)
        whole = super().forward(features, position, blocks, memory_mask)
        return torch.where((counted <= single)[:, None, None, None], whole, pooled)

    def _pooled(
        self, features: Tensor, position: Tensor, blocks: Sequence[TokenBlock], memory_mask: Tensor | None
    ) -> Tensor:
        x, *past = self.sequences(features, position, blocks)
        for layer in self.layers:
            x = layer.read(x, *past, blocks, memory_mask)
        return self.norm(x).transpose(1, 2).unflatten(2, features.shape[-2:])
