"""Hiera's blocks in chunks of windows: large buffers leave the caches, and are faulted in again at every use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam2core.ops.cpu.chunks import chunked, predicts_on_cpu
from sam2core.ops.cpu.products import NARROW

# A block with larger buffers than the limit is computed in chunks of windows, of so many bytes each; with short vectors
# fewer and larger products were faster, with long ones and tiles slower.
CHUNK_BYTES = (16 if NARROW else 8) * 2**20
CHUNK_LIMIT = 2 * CHUNK_BYTES


class BlockInChunks:
    """A `HieraBlock` that is computed a few rows of windows at a time, and its second half chunk by chunk."""

    replaces = ("forward",)

    def forward(self: Any, x: Tensor) -> Tensor:
        rows = self._rows_at_once(x)
        if rows >= x.shape[1]:
            return self._through(x)
        batch, height, width, _ = x.shape
        halved = 2 if self.pool else 1
        whole = x.new_empty(batch, height // halved, width // halved, self.attn.proj.out_features)
        for chunk, out in zip(x.split(rows, dim=1), whole.split(rows // halved, dim=1)):
            self._through(chunk, out)
        return whole

    def _rows_at_once(self: Any, x: Tensor) -> int:
        """How many rows of the map to compute at a time: whole windows, few enough for the caches."""
        batch, height, width, _ = x.shape
        hidden = self.mlp.layers[0].out_features // (4 if self.pool else 1)
        row = batch * width * max(hidden, self.attn.qkv.out_features) * self.attn.qkv.weight.element_size()
        if not self.window or not predicts_on_cpu(x) or height * row <= CHUNK_LIMIT:
            return height
        return max(1, CHUNK_BYTES // (row * self.window)) * self.window

    def _through(self: Any, x: Tensor, out: Tensor | None = None) -> Tensor:
        x = self.mix(x)
        return torch.add(x, self.drop_path(chunked(self.feed, x, self.mlp.layers[0].out_features)), out=out)
