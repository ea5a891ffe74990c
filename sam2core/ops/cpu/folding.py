"""Attention between many tokens and few: the projections of the many are folded into the few.

An image has thousands of tokens, a prompt about eight. A score is q·(W k) = (Wᵀ q)·k, and what is attended is averaged
before it is projected, so the image is multiplied by heads x tokens rows instead of by whole projections: half of the
arithmetic of the two-way transformer, with the same results up to rounding. Pays where this attention is bound by
arithmetic and its buffers by the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.ops.attention import Attention, merge_heads, split_heads
from sam2core.ops.cpu.chunks import predicts_on_cpu
from sam2core.ops.cpu.products import is_plain, products


def folds(attention: Attention, few: Tensor, many: Tensor) -> bool:
    """Whether folding pays and is allowed: in prediction, with fewer rows than the projections are wide.

    Projections that are more than their weights, such as those with an adapter, are not folded.
    """
    if not predicts_on_cpu(many):
        return False
    rows = attention.heads * few.shape[1]
    if rows > attention.q_proj.out_features or many.shape[1] < 4 * rows:
        return False
    return has_plain_layers(attention)


def has_plain_layers(attention: Attention) -> bool:
    """Whether an attention's projections are their weights and nothing else."""
    return all(map(is_plain, (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)))


def gather(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What few queries (B, T, C) read from an image's tokens (B, N, C): `attention`'s answer, (B, T, C).

    The bias of the keys moves all scores of a query alike, so it plays no part.
    """
    heads = attention.heads
    q = split_heads(attention.q_proj(query), heads)
    q = q @ attention.k_proj.weight.unflatten(0, (heads, -1)) * q.shape[-1] ** -0.5  # (B, heads, T, C)
    weights = products(q.flatten(1, 2), key).softmax(dim=-1)
    means = products(weights, value.transpose(1, 2)).unflatten(1, (heads, -1))
    read = means @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)  # (B, heads, T, d)
    return attention.out_proj(merge_heads(read) + attention.v_proj.bias)


def scatter(
    attention: Attention,
    image: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_mask: Tensor | None = None,
    *,
    projected: Tensor | None = None,
) -> Tensor:
    """An image's tokens (1 or B, N, C) plus what they read from few tokens (B, T, C), (B, N, C).

    `query` (1 or B, N, C) are the image's tokens with their place; `projected` (N, inner) is that of an image all rows
    share, projected before. `token_mask` (B, 1, 1, T) marks the tokens that may be read.
    """
    heads = attention.heads
    batch, few = key.shape[:2]
    k = split_heads(attention.k_proj(key), heads) * (attention.k_proj.out_features // heads) ** -0.5
    if projected is not None:
        q = projected.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (heads, d, N)
        scores = torch.bmm(k.transpose(0, 1).flatten(1, 2), q).view(heads, batch, few, -1).transpose(0, 1)
    else:
        folded = (k @ attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
        offset = k @ attention.q_proj.bias.view(heads, -1, 1)  # (B, heads, T, 1)
        scores = products(folded, query, offset.flatten(1, 2)).unflatten(1, (heads, few))
    if token_mask is not None:
        scores = scores.masked_fill(~token_mask.transpose(2, 3), -torch.inf)
    weights = scores.softmax(dim=2).flatten(1, 2)  # (B, heads T, N)
    v = split_heads(attention.v_proj(value), heads)
    spread = v @ attention.out_proj.weight.T.unflatten(0, (heads, -1))  # (B, heads, T, C)
    spread[:, 0] += attention.out_proj.bias  # a head's weights sum to one
    return products(weights.transpose(1, 2), spread.flatten(1, 2).transpose(1, 2), image.expand(batch, -1, -1))
