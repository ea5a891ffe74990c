"""Attention, plain and rotary, and the two-way transformer, as Meta's sam2 has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2.modeling.position_encoding import apply_rotary_enc, compute_axial_cis
from sam2.modeling.sam2_utils import MLP
from sam2.untouched import written


class Attention(nn.Module):
    """Attention that may work in fewer channels than it is given: `embedding_dim` / `downsample_rate`."""

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        downsample_rate: int = 1,
        dropout: float = 0.0,
        kv_in_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.kv_in_dim = embedding_dim if kv_in_dim is None else kv_in_dim
        self.internal_dim = embedding_dim // downsample_rate
        self.num_heads = num_heads
        if self.internal_dim % num_heads:
            raise ValueError(f"attention width {self.internal_dim} cannot be split into {num_heads} heads")
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(self.kv_in_dim, self.internal_dim)
        self.v_proj = nn.Linear(self.kv_in_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)
        self.dropout_p = dropout

    def _separate_heads(self, x: Tensor, num_heads: int) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return x.unflatten(2, (num_heads, -1)).transpose(1, 2)

    def _recombine_heads(self, x: Tensor) -> Tensor:
        """(B, heads, N, C / heads) to (B, N, C)."""
        return x.transpose(1, 2).flatten(2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, placed: Callable[..., tuple[Tensor, Tensor]] | None) -> Tensor:
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        q, k, v = (self._separate_heads(one, self.num_heads) for one in (q, k, v))
        if placed is not None:
            q, k = placed(q, k)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout_p if self.training else 0.0)
        return self.out_proj(self._recombine_heads(out))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, N, C), keys and values (B, M, Ck) to (B, N, C)."""
        return self._attend(q, k, v, None)


class RoPEAttention(Attention):
    """Attention whose queries and keys are turned by their place on a square grid.

    With `rope_k_repeat` the keys are of several grids, one behind the other.
    """

    def __init__(
        self,
        *args,
        rope_theta=10000.0,
        rope_k_repeat=False,
        feat_sizes=(64, 64),
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.compute_cis = partial(compute_axial_cis, dim=self.internal_dim // self.num_heads, theta=rope_theta)
        self.rope_k_repeat = rope_k_repeat
        self._turns = self.compute_cis(end_x=feat_sizes[0], end_y=feat_sizes[1])

    @property
    def freqs_cis(self) -> Tensor:
        """The turns of the grid of `feat_sizes`, complex; a grid of another size gets its own from `compute_cis`."""
        return self._turns

    @freqs_cis.setter
    def freqs_cis(self, turns: Tensor) -> None:
        self._turns = turns

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """As `Attention.forward`; the last `num_k_exclude_rope` keys lie on no grid."""

        def placed(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            count = q.shape[-2]
            assert count == k.shape[-2] or self.rope_k_repeat, "keys of several grids need rope_k_repeat"
            side = math.isqrt(count)
            turns = self._turns if self._turns.shape[0] == count else self.compute_cis(end_x=side, end_y=side)
            lying = k.shape[-2] - num_k_exclude_rope
            q, turned = apply_rotary_enc(
                q, k[:, :, :lying], freqs_cis=turns.to(q.device), repeat_freqs_k=self.rope_k_repeat
            )
            return q, torch.cat((turned, k[:, :, lying:]), dim=2) if num_k_exclude_rope else turned

        return self._attend(q, k, v, placed)


class TwoWayAttentionBlock(nn.Module):
    """Tokens to themselves, tokens to the image, an MLP, the image to the tokens; post-norm.

    With `skip_first_layer_pe` the first of these has neither positions nor a sum.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ) -> None:
        super().__init__()
        rate = attention_downsample_rate
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, downsample_rate=rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLP(embedding_dim, mlp_dim, embedding_dim, num_layers=2, activation=activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, downsample_rate=rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) and image (B, N, C), each with its position, to both anew."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(q=placed, k=placed, v=queries)
        queries = self.norm1(queries)
        image_placed = keys + key_pe
        told = self.cross_attn_token_to_image(q=queries + query_pe, k=image_placed, v=keys)
        queries = self.norm2(queries + told)
        queries = self.norm3(queries + self.mlp(queries))
        told = self.cross_attn_image_to_token(q=image_placed, k=queries + query_pe, v=queries)
        return queries, self.norm4(keys + told)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and one last attention of the tokens to the image."""

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim,
                num_heads,
                mlp_dim=mlp_dim,
                activation=activation,
                attention_downsample_rate=attention_downsample_rate,
                skip_first_layer_pe=index == 0,
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, downsample_rate=attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """An image (B, C, h, w), its position and tokens (B, T, C) to tokens (B, T, C) and the image (B, h * w, C)."""
        keys, key_pe = (one.flatten(2).transpose(1, 2) for one in (image_embedding, image_pe))
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries=queries, keys=keys, query_pe=point_embedding, key_pe=key_pe)
        told = self.final_attn_token_to_image(q=queries + point_embedding, k=keys + key_pe, v=keys)
        return self.norm_final_attn(queries + told), keys


written(globals())
