"""The feed-forward half of memory attention, chunk by chunk."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sam2core.ops.cpu.chunks import chunked


class LayerInChunks:
    """A `RopeMemoryLayer` whose feed-forward half goes through the caches some tokens at a time."""

    replaces = ("feed",)

    def feed(self: Any, x: Tensor) -> Tensor:
        return chunked(super().feed, x, self.linear1.out_features)  # type: ignore[misc]
