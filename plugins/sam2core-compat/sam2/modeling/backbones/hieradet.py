"""What upstream's Hiera is built of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Hiera:
    """A description of the trunk, with upstream's options and defaults; `SAM2Base` builds sam2core's from it."""

    embed_dim: int = 96
    num_heads: int = 1
    drop_path_rate: float = 0.0
    q_pool: int = 3
    q_stride: Sequence[int] = (2, 2)
    stages: Sequence[int] = (2, 3, 16, 3)
    dim_mul: float = 2.0
    head_mul: float = 2.0
    window_pos_embed_bkg_spatial_size: Sequence[int] = (14, 14)
    window_spec: Sequence[int] = (8, 4, 14, 7)
    global_att_blocks: Sequence[int] = (12, 16, 20)
    weights_path: str | None = None
    return_interm_layers: bool = True
