"""A mask token becomes an object pointer, the memory of what the object is rather than where."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2core.ops.layers import Mlp


class ObjectPointer(nn.Module):
    """A three-layer MLP on the mask token; an absent object points to a learned `absent` vector instead.

    `mask_stem` turns a user's mask into a mask input for the decoder, from whose token the object pointer of a mask
    prompt comes. Source: Meta's ``obj_ptr_proj``, ``no_obj_ptr`` and ``mask_downsample`` of ``SAM2Base``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Mlp(dim, dim, dim, layers=3)
        self.absent = nn.Parameter(torch.empty(1, dim))
        nn.init.trunc_normal_(self.absent, std=0.02)
        self.mask_stem = nn.Conv2d(1, 1, kernel_size=4, stride=4)

    def forward(self, tokens: Tensor, object_score: Tensor) -> Tensor:
        """Tokens (B, M, C) and object scores (B, 1) to object pointers (B, M, C)."""
        return self.gate(self.proj(tokens), object_score)

    def gate(self, object_pointers: Tensor, object_score: Tensor) -> Tensor:
        """Object pointers (B, M, C), with those of absent objects (object scores <= 0) replaced."""
        return torch.where((object_score > 0).unsqueeze(-1), object_pointers, self.absent)
