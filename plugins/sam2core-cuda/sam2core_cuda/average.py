"""Attention that averages narrow tokens before they are projected: `average_tokens` on a GPU.

Memories are 64 wide and are projected to 256 as values. Softmax rows sum to one, so the projection can wait: products
of weights and values are a quarter as wide, and so is the sum that each program holds. Scores are made a tile at a time
and never written. Source: T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning"
(2023), with tokens narrower than keys, and a mask by key.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2core.ops.attention import average_tokens, means_like, sdpa
from sam2core_cuda.launch import on_device

ROWS, COLUMNS = 128, 64  # queries and keys of a tile
WIDTHS = (16, 32, 64, 128, 256)  # of a head, and of tokens
LOG2_E = 1.4426950408889634


@triton.jit
def _average(
    query, key, tokens, readable, out,
    query_batch, query_head, query_row, key_batch, key_head, key_row, tokens_batch, tokens_head, tokens_row,
    readable_batch, out_batch, out_head, out_row, heads, queries, keys, scale,
    MASKED: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Means of tokens for `ROWS` queries of one head, by a running softmax over tiles of keys."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    wide = tl.arange(0, WIDTH)
    column = tl.arange(0, COLUMNS)
    at = query + batch * query_batch + head * query_head
    q = tl.load(at + row[:, None] * query_row + dim[None, :], mask=row[:, None] < queries, other=0.0)
    keys_at = key + batch * key_batch + head * key_head
    tokens_at = tokens + batch * tokens_batch + head * tokens_head
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, keys, COLUMNS):
        here = start + column
        live = here < keys
        k = tl.load(keys_at + here[None, :] * key_row + dim[:, None], mask=live[None, :], other=0.0)
        scores = tl.dot(q, k) * scale
        if MASKED:
            live = live & (tl.load(readable + batch * readable_batch + here, mask=live, other=0) != 0)
        scores = tl.where(live[None, :], scores, -1.0e30)  # finite: a tile without any key that counts is no NaN
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        t = tl.load(tokens_at + here[:, None] * tokens_row + wide[None, :], mask=here[:, None] < keys, other=0.0)
        total = total * shrink + tl.sum(weights, axis=1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(t.dtype), t)
        top = higher
    mean = mean / total[:, None]
    place = out + batch * out_batch + head * out_head + row[:, None] * out_row + wide[None, :]
    tl.store(place, mean.to(out.dtype.element_ty), mask=row[:, None] < queries)


def averages(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """`average_tokens` on a GPU, in half precision; tokens as wide as keys are torch's to attend to."""
    dim, width = query.shape[3], tokens.shape[3]
    if dim not in WIDTHS or width not in WIDTHS or not query.dtype == key.dtype == tokens.dtype:
        return average_tokens.portable(query, key, tokens, memory_mask)
    if width >= dim and memory_mask is None:
        return sdpa(query, key, tokens.expand(-1, query.shape[1], -1, -1))
    out = means_like(query, key, tokens)
    batch, heads, queries, _ = out.shape
    q, k, t = (each if each.stride(3) == 1 else each.contiguous() for each in (query, key, tokens))
    q, k, t = (each.expand(batch, heads, -1, -1) for each in (q, k, t))
    readable = None if memory_mask is None else memory_mask.contiguous().view(torch.uint8).expand(batch, -1)
    with on_device(query):
        _average[(triton.cdiv(queries, ROWS), batch * heads)](
            q, k, t, readable, out, *q.stride()[:3], *k.stride()[:3], *t.stride()[:3],
            0 if readable is None else readable.stride(0), *out.stride()[:3],
            heads, queries, key.shape[2], dim**-0.5 * LOG2_E,
            MASKED=readable is not None, DIM=dim, WIDTH=width, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=8, num_stages=2,
        )  # fmt: skip
    return out
