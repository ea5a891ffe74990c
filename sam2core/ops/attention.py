"""Multi-head attention: project, split heads, attend, merge. The one place that calls SDPA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Scores of as many queries as fit the last-level cache of common CPUs are made at a time.
BLOCK_BYTES = 32 * 2**20
# Below this many scores a head, SDPA's single call is the better deal.
BLOCK_SCORES = 2**22


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


def attend_projected(
    query: Tensor,
    key: Tensor,
    tokens: Tensor,
    project: nn.Linear,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention whose values are a linear projection of narrow tokens (B, Nk, C); gives (B, Nq, C').

    Softmax rows sum to one, so the projection can wait until the tokens have been averaged. On a CPU, where long
    attention is bound by arithmetic, that is what happens: the second product then is C wide instead of d. Equal to
    projecting first, up to rounding. Used for prediction alone; training and other devices take SDPA.
    """
    heads = query.shape[1]
    if not _averages_first(query, key, project) or mask is not None or dropout:
        return merge_heads(attend(query, key, split_heads(project(tokens), heads), mask, dropout))
    batch = max(query.shape[0], key.shape[0])
    weights = project.weight.unflatten(0, (heads, -1))  # (heads, d, C)
    means = query.new_empty(batch, query.shape[2], heads, weights.shape[1])
    block = max(16, BLOCK_BYTES // (key.shape[2] * query.element_size()))
    scores = query.new_empty(min(block, query.shape[2]), key.shape[2])
    scaled = query * query.shape[3] ** -0.5
    for row in range(batch):
        q, k = scaled[row % query.shape[0]], key[row % key.shape[0]].transpose(1, 2)
        memory = tokens[row % tokens.shape[0]]
        for head in range(heads):
            for start in range(0, query.shape[2], block):
                part = q[head, start : start + block]
                score = torch.mm(part, k[head], out=scores[: part.shape[0]])
                mean = torch.softmax(score, dim=-1, out=score) @ memory
                means[row, start : start + block, head] = mean @ weights[head].T
    merged = means.flatten(2)
    return merged if project.bias is None else merged + project.bias


def _averages_first(query: Tensor, key: Tensor, project: nn.Linear) -> bool:
    """Whether averaging tokens before projecting them pays, and is allowed."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or query.device.type != "cpu":
        return False
    narrow = project.in_features < query.shape[3] * query.shape[1]
    return narrow and query.shape[2] * key.shape[2] >= BLOCK_SCORES and not _sdpa_is_fast(query.dtype)


def _sdpa_is_fast(dtype: torch.dtype) -> bool:
    """Whether SDPA on this CPU beats plain products in this type: in half precision with tile instructions (AMX)."""
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch >= 2.6
    return dtype != torch.float32 and has_tiles is not None and has_tiles()


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
