"""The kernel, as `sam2core.ops.attention.average_tokens` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core_amx.library import load


def averages(query: Tensor, key: Tensor, tokens: Tensor, readable: Tensor | None = None) -> Tensor:
    """Bfloat16 queries (B, heads, Nq, d), keys (B, heads, Nk, d), tokens (B, Nk, C) to means (B, heads, Nq, C).

    A batch of one is shared by all rows; `readable` (B, Nk) marks the keys that count. Runs on torch's own threads.
    """
    query, key, tokens = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, tokens))
    batch, heads = max(query.shape[0], key.shape[0]), query.shape[1]
    means = query.new_empty(batch, heads, query.shape[2], tokens.shape[2])
    chosen = [None] if readable is None else [row.nonzero() for row in readable]
    for row in range(batch):
        places = chosen[row % len(chosen)]
        for head in range(heads):
            _average(
                query[row % query.shape[0], head],
                key[row % key.shape[0], head],
                tokens[row % tokens.shape[0]],
                places,
                means[row, head],
            )
    return means


def _average(query: Tensor, key: Tensor, tokens: Tensor, chosen: Tensor | None, means: Tensor) -> None:
    """Of one row and head, into `means` (Nq, C); `chosen` names the keys that count, None is all of them."""
    failed = load().sam2core_amx_average(
        query.data_ptr(),
        query.stride(0),
        query.shape[0],
        key.data_ptr(),
        key.stride(0),
        tokens.data_ptr(),
        tokens.stride(0),
        None if chosen is None else chosen.data_ptr(),
        key.shape[0] if chosen is None else chosen.shape[0],
        query.shape[1],
        tokens.shape[1],
        query.shape[1] ** -0.5,
        means.data_ptr(),
        means.stride(0),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"attention to {key.shape[0]} keys needs a copy of them, for which there is no memory")
