"""The kernels, as `sam2core.ops.attention.average_tokens` and `sam2core.ops.rope.rotary_pairs` call them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sam2core_amx.library import load, missing


def averages(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """Bfloat16 queries (B, heads, Nq, d), keys (B, heads, Nk, d) and tokens (B, heads or 1, Nk, C) to means of tokens.

    Keys and tokens of another type, as autocast may leave them, are rounded. A batch of one is shared by all rows;
    `memory_mask` (B, Nk) marks the keys that count. Runs on torch's own threads. Raises ValueError where lengths
    differ.
    """
    lengths = {key.shape[2], tokens.shape[2], key.shape[2] if memory_mask is None else memory_mask.shape[1]}
    if len(lengths) > 1 or query.shape[3] != key.shape[3]:
        given = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, tokens))
        raise ValueError(f"queries, keys and tokens do not fit: {given}")
    query, key, tokens = (_rows(tensor) for tensor in (query, key, tokens))
    batch, heads = max(query.shape[0], key.shape[0], tokens.shape[0]), query.shape[1]
    means = query.new_empty(batch, query.shape[2], heads, tokens.shape[3]).transpose(1, 2)
    chosen = [None] if memory_mask is None else [row.nonzero() for row in memory_mask]
    for row in range(batch):
        for head in range(heads):
            _average(
                query[row % query.shape[0], head],
                key[row % key.shape[0], head],
                tokens[row % tokens.shape[0], head % tokens.shape[1]],
                chosen[row % len(chosen)],
                means[row, head],
            )
    return means


def _rows(tensor: Tensor) -> Tensor:
    """In bfloat16, with numbers of a row beside each other."""
    tensor = tensor.to(torch.bfloat16)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _average(query: Tensor, key: Tensor, tokens: Tensor, chosen: Tensor | None, means: Tensor) -> None:
    """Of one row and head, into `means` (Nq, C); `chosen` names the keys that count, None is all of them."""
    code = load().sam2core_amx_average(
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
    _check(code, key)


def turned(tokens: Tensor, rotary: Tensor) -> Tensor:
    """Bfloat16 tokens (..., N, dim) with pairs of channels turned by fp32 `rotary` (N, dim / 2, 2)."""
    if rotary.shape != (tokens.shape[-2], tokens.shape[-1] // 2, 2):
        raise ValueError(f"turns {tuple(rotary.shape)} do not fit tokens {tuple(tokens.shape)}")
    tokens, rotary = _rows(tokens), rotary.float().contiguous()
    found = torch.empty_like(tokens)
    for index in itertools.product(*map(range, tokens.shape[:-2])):
        source, target = tokens[index], found[index]
        code = load().sam2core_amx_turn(
            source.data_ptr(),
            source.stride(0),
            source.shape[0],
            rotary.data_ptr(),
            source.shape[1],
            target.data_ptr(),
            target.stride(0),
            torch.get_num_threads(),
        )
        _check(code, tokens)
    return found


def _check(code: int, tensor: Tensor) -> None:
    if code == 2:
        raise RuntimeError(f"this kernel cannot run here: {missing()}")
    if code:
        raise MemoryError(f"attention to {tensor.shape[0]} keys needs a copy of them, for which there is no memory")
