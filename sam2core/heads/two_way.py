"""The two-way transformer: prompt tokens and image tokens attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from sam2core.ops.attention import Attention
from sam2core.ops.layers import Mlp


class TwoWayBlock(nn.Module):
    """Tokens to themselves, tokens to image, an MLP, image to tokens; post-norm throughout.

    The first block's self-attention has neither position nor residual (upstream: ``TwoWayAttentionBlock``).
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads=heads)
        self.norm1 = nn.LayerNorm(dim)
        self.token_to_image = Attention(dim, heads=heads, inner=dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden, dim, layers=2)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.image_to_token = Attention(dim, heads=heads, inner=dim // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, tokens_at: Tensor, image_at: Tensor, counts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, counts)
        else:
            placed = tokens + tokens_at
            tokens = tokens + self.self_attn(placed, placed, tokens, counts)
        tokens = self.norm1(tokens)

        image_placed = image + image_at
        tokens = self.norm2(tokens + self.token_to_image(tokens + tokens_at, image_placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_token(image_placed, tokens + tokens_at, tokens, counts))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and one last attention of the tokens to the image.

    Takes tokens (B, T, C), image tokens (1 or B, N, C) and their position (1, N, C); gives both back, (B, T, C) and
    (B, N, C). An image shared by all rows is projected once for all of them until the first block has updated it.
    `counts` (B, T) marks the tokens that others may read; None: all. Source: upstream ``TwoWayTransformer``.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads=heads, hidden=hidden, first=index == 0) for index in range(depth)
        )
        self.final_token_to_image = Attention(dim, heads=heads, inner=dim // 2)
        self.final_norm = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, image_at: Tensor, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens_at = tokens
        readable = None if counts is None else counts[:, None, None, :]
        for layer in self.layers:
            tokens, image = layer(tokens, image, tokens_at, image_at, readable)
        tokens = tokens + self.final_token_to_image(tokens + tokens_at, image + image_at, image)
        return self.final_norm(tokens), image
