"""The two-way transformer: prompt tokens and image tokens attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from sam2core.ops.attention import Attention
from sam2core.ops.layers import Mlp


class TwoWayBlock(nn.Module):
    """Tokens to themselves, tokens to image, an MLP, image to tokens; post-norm throughout.

    The first block's self-attention has neither position nor residual (Meta's ``TwoWayAttentionBlock``).
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
        self, tokens: Tensor, image: Tensor, tokens_at: Tensor, image_at: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) and image (1 or B, N, C), each with its position, to both as (B, T, C) and (B, N, C).

        `attention_mask` (B, 1, 1, T) marks the tokens that may be read; None: all.
        """
        tokens = self.among(tokens, tokens_at, attention_mask)
        image_placed = image + image_at
        tokens = self.norm2(tokens + self.token_to_image(tokens + tokens_at, image_placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_token(image_placed, tokens + tokens_at, tokens, attention_mask))
        return tokens, image

    def among(self, tokens: Tensor, tokens_at: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The tokens (B, T, C) once they have attended to themselves."""
        if self.first:
            return self.norm1(self.self_attn(tokens, tokens, tokens, attention_mask))
        placed = tokens + tokens_at
        return self.norm1(tokens + self.self_attn(placed, placed, tokens, attention_mask))


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and one last attention of the tokens to the image.

    Takes tokens (B, T, C), image tokens (1 or B, N, C) and their position (1, N, C); gives both back, (B, T, C) and
    (B, N, C). `token_mask` (B, T) marks the tokens that others may read; None: all.
    Source: Meta's ``TwoWayTransformer``.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads=heads, hidden=hidden, first=index == 0) for index in range(depth)
        )
        self.final_token_to_image = Attention(dim, heads=heads, inner=dim // 2)
        self.final_norm = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, image_at: Tensor, token_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens_at = tokens
        attention_mask = None if token_mask is None else token_mask[:, None, None, :]
        for layer in self.layers:
            tokens, image = layer(tokens, image, tokens_at, image_at, attention_mask)
        tokens = tokens + self.final_token_to_image(tokens + tokens_at, image + image_at, image)
        return self.final_norm(tokens), image
