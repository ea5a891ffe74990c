"""Multi-head attention: project, split heads, attend, merge. The one place that calls SDPA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.operator import Composite, Operator

# Attention of so many scores a head is long: below, SDPA's single call is the better deal.
LONG = 2**22


@Composite
def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention over (B, heads, N, d) tensors; batches of one are shared by all rows.

    `mask` broadcasts to (B, heads, Nq, Nk): boolean, True where a key may be read, or numbers that scores get added.
    """
    if dropout == 0.0 and takes_averages(query, key, mask):
        return average_tokens(query, key, value, by_key(mask))
    return sdpa(query, key, value, mask, dropout)


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """`attend` in torch's one call."""
    query, key, value = shared_rows(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def shared_rows(*tensors: Tensor) -> list[Tensor]:
    """The tensors with batches of one expanded to the batch of the others."""
    batch = max(tensor.shape[0] for tensor in tensors)
    return [tensor if tensor.shape[0] == batch else tensor.expand(batch, -1, -1, -1) for tensor in tensors]


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """(B, heads, N, d) to (B, N, heads * d)."""
    return tokens.transpose(1, 2).flatten(2)


@Composite
def attend_projected(
    query: Tensor,
    key: Tensor,
    tokens: Tensor,
    project: nn.Linear,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention whose values are a linear projection of tokens (B, Nk, C); gives (B, Nq, C').

    Softmax rows sum to one, so the projection of narrow tokens can wait until they have been averaged. In prediction
    that is what happens where a kernel of `average_tokens` is attached. Equal to projecting first, up to rounding.
    """
    if dropout == 0.0 and narrows(query, project) and takes_averages(query, key, mask):
        return project_averages(query, key, tokens, project, mask)
    return merge_heads(attend(query, key, split_heads(project(tokens), query.shape[1]), mask, dropout))


def project_averages(
    query: Tensor, key: Tensor, tokens: Tensor, project: nn.Linear, mask: Tensor | None = None
) -> Tensor:
    """`attend_projected`, the tokens averaged first; `mask` is one that `by_key` takes."""
    tokens = tokens.to(query.dtype)  # under autocast only what a product gave is in half precision
    means = average_tokens(query, key.to(query.dtype), tokens.unsqueeze(1), by_key(mask))
    weights = project.weight.unflatten(0, (query.shape[1], -1))  # (heads, d, C)
    merged = merge_heads(means @ weights.transpose(1, 2))
    return merged if project.bias is None else merged.add_(project.bias)


def narrows(query: Tensor, project: nn.Linear) -> bool:
    """Whether tokens are narrower than what they are projected to, so that averaging them is less work."""
    return project.in_features < query.shape[3] * query.shape[1]


def _average(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """Tokens (B, heads or 1, Nk, C) averaged for queries (B, heads, Nq, d), with softmax weights of keys of that width.

    Gives (B, heads, Nq, C) in the queries' type; a batch of one is shared by all rows. `memory_mask` (B, Nk) marks the
    keys that count, at least one in a row; None: all. A plugin attaches a faster kernel with
    ``average_tokens.register_kernel(device, dtype)``; all long attention then takes it, save in training.
    """
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if memory_mask is not None:
        scores = scores.masked_fill(~memory_mask[:, None, None], -torch.inf)
    return means_like(query, key, tokens).copy_(scores.softmax(dim=-1) @ tokens)


def means_like(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """Where `average_tokens` puts its answer: laid out so that merging heads copies nothing."""
    batch = max(query.shape[0], key.shape[0], tokens.shape[0])
    return query.new_empty(batch, query.shape[2], query.shape[1], tokens.shape[3]).transpose(1, 2)


average_tokens = Operator(
    "average_tokens(Tensor query, Tensor key, Tensor tokens, Tensor? memory_mask=None) -> Tensor", _average, means_like
)


def takes_averages(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether attention goes to a kernel of `average_tokens`: in prediction, long, masked by key alone."""
    if not average_tokens.attached(query) or torch.is_grad_enabled() or not is_long(query, key):
        return False
    return mask is None or mask.dtype == torch.bool and mask.shape[1:3] == (1, 1)


def by_key(mask: Tensor | None) -> Tensor | None:
    """A mask (B, 1, 1, Nk) by key, (B, Nk)."""
    return None if mask is None else mask[:, 0, 0]


def is_long(query: Tensor, key: Tensor) -> bool:
    """Whether a head has many scores."""
    return query.shape[2] * key.shape[2] >= LONG


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
