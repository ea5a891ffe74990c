"""Attention in blocks of scores that caches hold, and as plain products where they are faster than SDPA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2core.ops.attention import (
    attend,
    attend_projected,
    average_tokens,
    by_key,
    is_long,
    means_like,
    merge_heads,
    narrows,
    project_averages,
    sdpa,
    shared_rows,
    split_heads,
    takes_averages,
)
from sam2core.ops.cpu import products
from sam2core.ops.cpu.chunks import predicts_on_cpu
from sam2core.ops.cpu.products import product

# Scores are made a block at a time: what matrix products still run fast on and caches hold.
BLOCK = (512 if products.WIDE else 1024, 2048)  # queries, keys
# Where products are fast, softmax in one call over whole rows is the better deal: as many queries as fit a large cache,
# but enough of them for a product. In fp32 only where so many fit.
BLOCK_BYTES, BLOCK_ROWS = 8 * 2**20, 512
# Whether this CPU has tile instructions, as torch >= 2.6 tells; asked here, for compilers cannot.
TILES = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
# Up to this many scores in all, training keeps them: SDPA's backward pass takes several times as long.
KEPT_SCORES = 2**26


@attend.register_kernel("cpu")
def attend_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """SDPA, but for attention that another's kernel takes, that is faster as products, or that is trained."""
    if dropout == 0.0 and _meets_another(query, key, mask):
        return average_tokens(query, key, value, by_key(mask))
    if dropout == 0.0 and mask is None and _products_are_fast(query, key, value):
        return average_tokens(query, key, value) if is_long(query, key) else _attend_windows(query, key, value)
    if dropout == 0.0 and _keeps_scores(query, key):
        query, key, value = shared_rows(query, key, value)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1).to(value.dtype) @ value
    return sdpa(query, key, value, mask, dropout)


@attend_projected.register_kernel("cpu")
def attend_projected_on_cpu(
    query: Tensor,
    key: Tensor,
    tokens: Tensor,
    project: nn.Linear,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Narrow tokens are averaged before they are projected: long attention is bound by arithmetic."""
    if dropout == 0.0 and _averages_first(query, key, project, mask):
        return project_averages(query, key, tokens, project, mask)
    return merge_heads(attend(query, key, split_heads(project(tokens), query.shape[1]), mask, dropout))


@average_tokens.register_kernel("cpu")
def average_in_blocks(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """`average_tokens`, a block of queries at a time."""
    means = means_like(query, key, tokens)
    whole = query.dtype != torch.float32 or _takes_onednn(query) and key.shape[2] * BLOCK_ROWS * 4 <= BLOCK_BYTES
    mean = _mean_of_rows if whole else _mean
    scaled = query * query.shape[3] ** -0.5
    for row in range(means.shape[0]):
        for head in range(means.shape[1]):
            q, k = scaled[row % query.shape[0], head], key[row % key.shape[0], head]
            t = tokens[row % tokens.shape[0], head % tokens.shape[1]]
            if memory_mask is not None:
                read = memory_mask[row % memory_mask.shape[0]]
                k, t = k[read], t[read]
            means[row, head] = mean(q, k, t)
    return means


def _meets_another(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether this attention goes to a kernel of `average_tokens` that is not the one in this file."""
    return average_tokens.kernel(query) is not average_in_blocks and takes_averages(query, key, mask)


def _averages_first(query: Tensor, key: Tensor, project: nn.Linear, mask: Tensor | None = None) -> bool:
    """Whether averaging tokens before projecting them pays, and is allowed."""
    if not narrows(query, project):
        return False
    if _meets_another(query, key, mask):
        return True
    return mask is None and predicts_on_cpu(query) and is_long(query, key) and not _sdpa_is_fast(query.dtype)


def _products_are_fast(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether plain products beat SDPA for tokens that attend to each other.

    In bfloat16 without tiles, and in fp32 where SDPA's own products are slow (`products.WIDE`): long ones there.
    """
    if torch.is_grad_enabled():
        return False
    if query.dtype == torch.float32:  # asked before shapes are, which exported graphs leave open
        fast = _takes_onednn(query) and predicts_on_cpu(query) and is_long(query, key)
    else:
        fast = query.dtype == torch.bfloat16 and not _sdpa_is_fast(query.dtype)
    return fast and query.shape == key.shape == value.shape


def _attend_windows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention as two batched products; the scores of all windows are held at once."""
    batch, heads, count, dim = query.shape
    query, key, value = (tokens.reshape(-1, count, dim) for tokens in (query, key, value))
    scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=dim**-0.5)
    weights = scores.softmax(-1) if torch.compiler.is_compiling() else torch.softmax(scores, -1, out=scores)
    return torch.bmm(weights, value).view(batch, heads, count, dim)


def _keeps_scores(query: Tensor, key: Tensor) -> bool:
    """Whether to attend with plain products: where a gradient will be asked for, and the scores fit."""
    if not query.requires_grad or torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() and query[..., 0].numel() * key.shape[-2] <= KEPT_SCORES


def _mean(query: Tensor, key: Tensor, tokens: Tensor) -> Tensor:
    """Tokens (Nk, C) averaged with softmax weights of each query (Nq, d), scaled already: (Nq, C).

    Scores of a block of keys are folded into running sums, rescaled when the largest score grows (Milakov and
    Gimelshein 2018, "Online normalizer calculation for softmax").
    """
    queries, keys = min(BLOCK[0], query.shape[0]), min(BLOCK[1], key.shape[0])
    buffer = query.new_empty(queries * keys)
    means = query.new_empty(query.shape[0], tokens.shape[1])
    for start in range(0, query.shape[0], queries):
        q = query[start : start + queries]
        top = q.new_full((q.shape[0], 1), -torch.inf)
        total = q.new_zeros(q.shape[0], 1)
        mean = means[start : start + queries].zero_()
        for first in range(0, key.shape[0], keys):
            k = key[first : first + keys]
            weights = _scores(q, k, buffer)
            higher = torch.maximum(top, weights.amax(dim=1, keepdim=True))
            weights.sub_(higher).exp_()
            shrink = top.sub_(higher).exp_()
            total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
            mean.mul_(shrink)
            if _takes_onednn(query):
                mean.add_(product(weights, tokens[first : first + keys].T))
            else:
                mean.addmm_(weights, tokens[first : first + keys])
            top = higher
        mean.div_(total)
    return means


def _mean_of_rows(query: Tensor, key: Tensor, tokens: Tensor) -> Tensor:
    """`_mean`, whole rows of scores at a time."""
    block = max(BLOCK_ROWS, BLOCK_BYTES // (key.shape[0] * query.element_size()))
    buffer = query.new_empty(min(block, query.shape[0]) * key.shape[0])
    means = query.new_empty(query.shape[0], tokens.shape[1])
    for start in range(0, query.shape[0], block):
        weights = _scores(query[start : start + block], key, buffer)
        torch.softmax(weights, dim=-1, out=weights)
        if _takes_onednn(query):
            means[start : start + block] = product(weights, tokens.T)
        else:
            torch.mm(weights, tokens, out=means[start : start + block])
    return means


def _takes_onednn(query: Tensor) -> bool:
    """Whether products of these are faster by oneDNN, which writes to no buffer of the caller's."""
    return products.WIDE and query.dtype == torch.float32


def _scores(query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
    """Queries (N, d) times keys (M, d), (N, M): in the buffer, if `torch.mm` makes them."""
    if _takes_onednn(query):
        return product(query.contiguous(), key)
    return torch.mm(query, key.T, out=buffer[: query.shape[0] * key.shape[0]].view(query.shape[0], -1))


def _sdpa_is_fast(dtype: torch.dtype) -> bool:
    """Whether SDPA on this CPU beats plain products in this type: in half precision with tile instructions (AMX)."""
    return dtype != torch.float32 and TILES
