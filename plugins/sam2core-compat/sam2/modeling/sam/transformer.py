"""What upstream's attention is built of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class RoPEAttention:
    """A description of attention with rotary positions. `feat_sizes` is not read: tables fit the image's size."""

    embedding_dim: int
    num_heads: int
    downsample_rate: int = 1
    dropout: float = 0.0
    kv_in_dim: int | None = None
    rope_theta: float = 10000.0
    rope_k_repeat: bool = False
    feat_sizes: Sequence[int] = (64, 64)
