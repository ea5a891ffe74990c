"""What upstream's memory attention is built of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class MemoryAttentionLayer:
    """A description of one layer, with upstream's options."""

    activation: str
    cross_attention: Any
    d_model: int
    dim_feedforward: int
    dropout: float
    pos_enc_at_attn: bool
    pos_enc_at_cross_attn_keys: bool
    pos_enc_at_cross_attn_queries: bool
    self_attention: Any


@dataclass
class MemoryAttention:
    """A description of the layers that condition an image on its past, with upstream's options."""

    d_model: int
    pos_enc_at_input: bool
    layer: Any
    num_layers: int
    batch_first: bool = True
