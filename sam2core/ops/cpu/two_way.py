"""The two-way transformer with folded attention; an image that all rows share is projected once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sam2core.ops.attention import attend, merge_heads, split_heads
from sam2core.ops.cpu.folding import folds, gather, has_plain_layers, scatter


@dataclass(frozen=True, eq=False)
class SharedImage:
    """What the first block makes of an image that all rows share, whatever the prompt."""

    placed: Tensor  # (1, N, C) the image's tokens plus their position
    key: Tensor  # (1, N, inner)
    value: Tensor  # (1, N, inner)
    query: Tensor  # (1, N, inner)


class FoldedBlock:
    """A `TwoWayBlock` whose attentions between tokens and image do not project the image."""

    replaces = ("forward",)

    def share(self: Any, image: Tensor, image_at: Tensor) -> SharedImage:
        """The image's side of both attentions, for an image (1, N, C) that many calls share."""
        placed = image + image_at
        read = self.token_to_image
        return SharedImage(placed, read.k_proj(placed), read.v_proj(image), self.image_to_token.q_proj(placed))

    def forward(
        self: Any,
        tokens: Tensor,
        image: Tensor,
        tokens_at: Tensor,
        image_at: Tensor,
        attention_mask: Tensor | None,
        shared: SharedImage | None = None,
    ) -> tuple[Tensor, Tensor]:
        if not (folds(self.token_to_image, tokens, image) and has_plain_layers(self.image_to_token)):
            return super().forward(tokens, image, tokens_at, image_at, attention_mask)  # type: ignore[misc]
        tokens = self.among(tokens, tokens_at, attention_mask)
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
        image = scatter(
            self.image_to_token,
            image,
            placed,
            tokens + tokens_at,
            tokens,
            attention_mask,
            projected=None if shared is None else shared.query[0],
        )
        return tokens, self.norm4(image)


class FoldedTransformer:
    """A `TwoWayTransformer` of folded blocks, whose calls may share what the first block makes of an image."""

    replaces = ("forward",)

    def share(self: Any, image: Tensor, image_at: Tensor) -> SharedImage:
        """What calls that share an image (1, N, C) would each compute of it; given to them as `shared`."""
        return self.layers[0].share(image, image_at)

    def forward(
        self: Any,
        tokens: Tensor,
        image: Tensor,
        image_at: Tensor,
        token_mask: Tensor | None = None,
        shared: SharedImage | None = None,
    ) -> tuple[Tensor, Tensor]:
        final = self.final_token_to_image
        if not folds(final, tokens, image):
            return super().forward(tokens, image, image_at, token_mask)  # type: ignore[misc]
        tokens_at = tokens
        attention_mask = None if token_mask is None else token_mask[:, None, None, :]
        for layer in self.layers:
            tokens, image = layer(tokens, image, tokens_at, image_at, attention_mask, shared)
            shared = None
        tokens = tokens + gather(final, tokens + tokens_at, image + image_at, image)
        return self.final_norm(tokens), image
