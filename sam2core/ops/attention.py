"""Multi-head attention: project, split heads, attend, merge. The one place that calls SDPA."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention over (B, heads, N, d) tensors; batches of one are shared by all rows.

    `mask` is boolean, broadcastable to (B, heads, Nq, Nk), True where a key may be read.
    """
    batch = max(query.shape[0], key.shape[0], value.shape[0])
    query, key, value = (t if t.shape[0] == batch else t.expand(batch, -1, -1, -1) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """(B, heads, N, d) to (B, N, heads * d)."""
    return tokens.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Attention of one token sequence to another, with an optional narrower inner width.

    Mirrors the attention of SAM's two-way transformer. Queries are `dim` wide, keys and values `key_dim`;
    inside, all are `inner` wide.
    """

    def __init__(self, dim: int, *, heads: int, inner: int | None = None, key_dim: int | None = None) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        key_dim = dim if key_dim is None else key_dim
        if inner % heads:
            raise ValueError(f"attention width {inner} cannot be split into {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(key_dim, inner)
        self.v_proj = nn.Linear(key_dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Nq, dim), (B, Nk, key_dim) twice -> (B, Nq, dim); a batch of one is shared by all rows."""
        q = split_heads(self.q_proj(query), self.heads)
        k = split_heads(self.k_proj(key), self.heads)
        v = split_heads(self.v_proj(value), self.heads)
        return self.out_proj(merge_heads(attend(q, k, v, mask)))
