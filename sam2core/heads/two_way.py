"""The two-way transformer: prompt tokens and image tokens attend to each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sam2core.ops.attention import Attention, attend, merge_heads, split_heads
from sam2core.ops.folding import folds, gather, scatter
from sam2core.ops.layers import Mlp


@dataclass(frozen=True, eq=False)
class SharedImage:
    """What the first block makes of an image that all rows share, whatever the prompt."""

    placed: Tensor  # (1, N, C) the image's tokens plus their position
    key: Tensor  # (1, N, inner)
    value: Tensor  # (1, N, inner)
    query: Tensor  # (1, N, inner)


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

    def share(self, image: Tensor, image_at: Tensor) -> SharedImage:
        """The image's side of both attentions, for an image (1, N, C) that many calls share."""
        placed = image + image_at
        read = self.token_to_image
        return SharedImage(placed, read.k_proj(placed), read.v_proj(image), self.image_to_token.q_proj(placed))

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        tokens_at: Tensor,
        image_at: Tensor,
        token_mask: Tensor | None,
        shared: SharedImage | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, token_mask)
        else:
            placed = tokens + tokens_at
            tokens = tokens + self.self_attn(placed, placed, tokens, token_mask)
        tokens = self.norm1(tokens)
        if folds(self.token_to_image, tokens, image):
            return self._folded(tokens, image, tokens_at, image_at, token_mask, shared)

        image_placed = image + image_at
        tokens = self.norm2(tokens + self.token_to_image(tokens + tokens_at, image_placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_token(image_placed, tokens + tokens_at, tokens, token_mask))
        return tokens, image

    def _folded(
        self,
        tokens: Tensor,
        image: Tensor,
        tokens_at: Tensor,
        image_at: Tensor,
        token_mask: Tensor | None,
        shared: SharedImage | None,
    ) -> tuple[Tensor, Tensor]:
        """The second half of `forward`, without projecting the image; one that rows share is projected once for all."""
        if shared is None and image.shape[0] < tokens.shape[0]:
            shared = self.share(image, image_at)
        if shared is not None:
            placed, reading = shared.placed, self.token_to_image
            query = split_heads(reading.q_proj(tokens + tokens_at), reading.heads)
            key, value = (split_heads(projected, reading.heads) for projected in (shared.key, shared.value))
            read = reading.out_proj(merge_heads(attend(query, key, value)))
        else:
            placed = image + image_at
            read = gather(self.token_to_image, tokens + tokens_at, placed, image)
        tokens = self.norm2(tokens + read)
        tokens = self.norm3(tokens + self.mlp(tokens))
        projected = None if shared is None else shared.query[0]
        image = scatter(self.image_to_token, image, placed, tokens + tokens_at, tokens, token_mask, projected=projected)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and one last attention of the tokens to the image.

    Takes tokens (B, T, C), image tokens (1 or B, N, C) and their position (1, N, C); gives both back, (B, T, C) and
    (B, N, C). An image shared by all rows is projected once for all of them until the first block has updated it.
    `token_mask` (B, T) marks the tokens that others may read; None: all. Source: upstream ``TwoWayTransformer``.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads=heads, hidden=hidden, first=index == 0) for index in range(depth)
        )
        self.final_token_to_image = Attention(dim, heads=heads, inner=dim // 2)
        self.final_norm = nn.LayerNorm(dim)

    def share(self, image: Tensor, image_at: Tensor) -> SharedImage:
        """What calls that share an image (1, N, C) would each compute of it; given to them as `shared`."""
        return self.layers[0].share(image, image_at)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        image_at: Tensor,
        token_mask: Tensor | None = None,
        shared: SharedImage | None = None,
    ) -> tuple[Tensor, Tensor]:
        tokens_at = tokens
        attention_mask = None if token_mask is None else token_mask[:, None, None, :]
        for layer in self.layers:
            tokens, image = layer(tokens, image, tokens_at, image_at, attention_mask, shared)
            shared = None
        final = self.final_token_to_image
        if folds(final, tokens, image):
            tokens = tokens + gather(final, tokens + tokens_at, image + image_at, image)
        else:
            tokens = tokens + final(tokens + tokens_at, image + image_at, image)
        return self.final_norm(tokens), image
