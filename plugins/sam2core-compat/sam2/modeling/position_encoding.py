"""What upstream's position encodings are built of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class PositionEmbeddingSine:
    """A description of the sine map, with upstream's options and defaults."""

    num_pos_feats: int
    temperature: int = 10000
    normalize: bool = True
    scale: float | None = None
    warmup_cache: bool = True
    image_size: int = 1024
    strides: Sequence[int] = (4, 8, 16, 32)
