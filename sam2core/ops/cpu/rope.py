"""Rotary position encoding in half precision."""

from __future__ import annotations

import torch
from torch import Tensor

from sam2core.ops.rope import rotary_complex, rotary_pairs

# Half precision turns in fp32 on its way through the cache, so many bytes at a time.
CHUNK_BYTES = 2**20


@rotary_pairs.register_kernel("cpu")
def rotary_in_chunks(tokens: Tensor, rotary: Tensor) -> Tensor:
    """`rotary_complex`, in half precision some tokens at a time."""
    if tokens.dtype == torch.float32:
        return rotary_complex(tokens, rotary)
    rows = max(1, CHUNK_BYTES // (4 * tokens.shape[-1]))
    turned = torch.empty_like(tokens)
    for start in range(0, tokens.shape[-2], rows):
        chunk = slice(start, start + rows)
        turned[..., chunk, :] = rotary_complex(tokens[..., chunk, :], rotary[chunk])
    return turned
