"""An image attends to itself and to its memories, layer by layer as Meta's sam2 has it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_utils import get_activation_fn, get_clones
from sam2.untouched import written


class MemoryAttentionLayer(nn.Module):
    """Pre-norm self-attention, attention to the memories, feed-forward."""

    def __init__(
        self,
        activation: str,
        cross_attention: nn.Module,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        pos_enc_at_attn: bool,
        pos_enc_at_cross_attn_keys: bool,
        pos_enc_at_cross_attn_queries: bool,
        self_attention: nn.Module,
    ):
        super().__init__()
        self.d_model = d_model
        self.dim_feedforward = dim_feedforward
        self.dropout_value = dropout
        self.self_attn = self_attention
        self.cross_attn_image = cross_attention
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)
        self.activation_str = activation
        self.activation = get_activation_fn(activation)
        self.pos_enc_at_attn = pos_enc_at_attn
        self.pos_enc_at_cross_attn_queries = pos_enc_at_cross_attn_queries
        self.pos_enc_at_cross_attn_keys = pos_enc_at_cross_attn_keys

    def _forward_sa(self, tgt: Tensor, query_pos: Tensor | None) -> Tensor:
        """The tokens (B, N, C) after they have attended to themselves."""
        normed = self.norm1(tgt)
        placed = normed + query_pos if self.pos_enc_at_attn else normed
        return tgt + self.dropout1(self.self_attn(placed, placed, v=normed))

    def _forward_ca(
        self, tgt: Tensor, memory: Tensor, query_pos: Tensor | None, pos: Tensor | None, num_k_exclude_rope: int = 0
    ) -> Tensor:
        """The tokens (B, N, C) after they have attended to the memories (B, M, Cm)."""
        options: dict[str, Any] = {}
        if num_k_exclude_rope > 0:
            assert isinstance(self.cross_attn_image, RoPEAttention), "object pointers need rotary attention"
            options["num_k_exclude_rope"] = num_k_exclude_rope
        normed = self.norm2(tgt)
        told = self.cross_attn_image(
            q=normed + query_pos if self.pos_enc_at_cross_attn_queries else normed,
            k=memory + pos if self.pos_enc_at_cross_attn_keys else memory,
            v=memory,
            **options,
        )
        return tgt + self.dropout2(told)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
        num_k_exclude_rope: int = 0,
    ) -> Tensor:
        tgt = self._forward_sa(tgt, query_pos)
        tgt = self._forward_ca(tgt, memory, query_pos, pos, num_k_exclude_rope)
        hidden = self.dropout(self.activation(self.linear1(self.norm3(tgt))))
        return tgt + self.dropout3(self.linear2(hidden))


class MemoryAttention(nn.Module):
    """Layers that condition an image's tokens on memories; copies of `layer`."""

    def __init__(
        self, d_model: int, pos_enc_at_input: bool, layer: nn.Module, num_layers: int, batch_first: bool = True
    ):
        super().__init__()
        self.d_model = d_model
        self.layers = get_clones(layer, num_layers)
        self.num_layers = num_layers
        self.norm = nn.LayerNorm(d_model)
        self.pos_enc_at_input = pos_enc_at_input
        self.batch_first = batch_first

    def forward(
        self,
        curr: Tensor,
        memory: Tensor,
        curr_pos: Tensor | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> Tensor:
        """The image's tokens (N, B, C), or a list that holds them alone, and memories (M, B, Cm) to tokens (N, B, C).

        The last `num_obj_ptr_tokens` memories are of object pointers, which lie on no grid.
        """
        if isinstance(curr, list):
            assert isinstance(curr_pos, list) and len(curr) == len(curr_pos) == 1, "one level is attended from"
            curr, curr_pos = curr[0], curr_pos[0]
        assert curr.shape[1] == memory.shape[1], f"{curr.shape[1]} images and {memory.shape[1]} pasts do not fit"
        x = curr
        if self.pos_enc_at_input and curr_pos is not None:
            x = x + 0.1 * curr_pos
        if self.batch_first:
            x, curr_pos, memory, memory_pos = (one.transpose(0, 1) for one in (x, curr_pos, memory, memory_pos))
        for layer in self.layers:
            rotary = isinstance(layer.cross_attn_image, RoPEAttention)
            options = {"num_k_exclude_rope": num_obj_ptr_tokens} if rotary else {}
            x = layer(tgt=x, memory=memory, pos=memory_pos, query_pos=curr_pos, **options)
        x = self.norm(x)
        return x.transpose(0, 1) if self.batch_first else x


written(globals())
