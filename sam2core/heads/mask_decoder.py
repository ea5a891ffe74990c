"""Four mask tokens become four masks, their scores and the object's object score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.heads.select import Stability
from sam2core.heads.two_way import TwoWayTransformer
from sam2core.ops.layers import LayerNorm2d, Mlp
from sam2core.types import DecoderOutput


class SamMaskDecoder(nn.Module):
    """SAM's mask decoder; it always returns all four masks, and nothing is selected here.

    Tokens are object score, IoU, four masks, then the prompt's. Each mask token makes a filter for the upscaled image
    map (stride 4), which the projected finer maps of the neck join on the way up (`high_res_features`). `stability`
    holds the ``delta`` and ``threshold`` of the fallback from an unstable single mask, which the model applies when it
    predicts; None turns it off. Source: Meta's ``MaskDecoder``.
    """

    MASKS = 4

    def __init__(
        self,
        dim: int,
        *,
        high_res_features: bool = True,
        heads: int = 8,
        hidden: int = 2048,
        stability: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if dim % 8:
            raise ValueError(f"masks are drawn from maps of an eighth of dim, and {dim} is no multiple of 8")
        if unknown := sorted(set(stability or ()) - {"delta", "threshold"}):
            raise ValueError(f"stability has delta and threshold, no {unknown[0]!r}")
        self.high_res_strides = (4, 8) if high_res_features else ()  # the neck's maps that it reads beside the last
        self.stability = None if stability is None else Stability(**stability)
        self.transformer = TwoWayTransformer(dim, heads=heads, hidden=hidden)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.MASKS, dim)
        self.presence_token = nn.Embedding(1, dim)
        self.upscale = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.skip_stride4 = nn.Conv2d(dim, dim // 8, kernel_size=1) if high_res_features else None
        self.skip_stride8 = nn.Conv2d(dim, dim // 4, kernel_size=1) if high_res_features else None
        self.mask_mlps = nn.ModuleList(Mlp(dim, dim, dim // 8, layers=3) for _ in range(self.MASKS))
        self.iou_head = Mlp(dim, dim, self.MASKS, layers=3)
        self.presence_head = Mlp(dim, dim, 1, layers=3)

    def to_mixed_precision(self, dtype: torch.dtype) -> None:
        """Stays as it is: masks and scores are made in fp32."""

    def high_res_features(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The neck's maps at strides 4 and 8, as narrow as the upscaled map wants them; () without high-resolution
        features.

        Depends on the image alone, so the model does it once per image.
        """
        if self.skip_stride4 is None or self.skip_stride8 is None:
            return ()
        return self.skip_stride4(maps[0]), self.skip_stride8(maps[1])

    def forward(
        self,
        embedding: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_features: tuple[Tensor, ...],
        token_mask: Tensor | None = None,
    ) -> DecoderOutput:
        """Four masks at stride 4 from the embedding (1 or B, C, H, W), its position and the prompt (B, P, C).

        `dense` is the prompt's map, broadcastable to the embedding; `high_res_features` come from `high_res_features`;
        `token_mask` (B, P) marks the prompt tokens that are meant; None: all of them.
        """
        tokens, maps = self.attended(embedding, position, sparse, dense, token_mask)
        x = self.enlarge(maps, high_res_features)
        masks = (self.filters(tokens) @ x.flatten(2)).unflatten(2, x.shape[-2:])
        return DecoderOutput(
            masks=self.finish(masks, high_res_features),
            iou=F.sigmoid(self.iou_head(tokens[:, 1])),
            tokens=tokens[:, 2 : 2 + self.MASKS],
            object_score=self.presence_head(tokens[:, 0]),
        )

    def attended(
        self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, token_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """All tokens (B, T, C) and the image's map (B, C, H, W) once both have attended to each other."""
        tokens, token_mask = self.with_own_tokens(sparse, token_mask)
        image = (embedding + dense).flatten(2).transpose(1, 2)
        tokens, image = self.transformer(tokens, image, position.flatten(2).transpose(1, 2), token_mask)
        return tokens, image.transpose(1, 2).unflatten(2, embedding.shape[-2:])

    def filters(self, tokens: Tensor) -> Tensor:
        """The filters (B, 4, C / 8) that the mask tokens among all tokens (B, T, C) make."""
        own = tokens[:, 2 : 2 + self.MASKS]
        return torch.stack([mlp(own[:, index]) for index, mlp in enumerate(self.mask_mlps)], dim=1)

    def enlarge(self, maps: Tensor, high_res_features: tuple[Tensor, ...]) -> Tensor:
        """A map (B, C, H, W) at stride 16 to that at stride 4, (B, C / 8, 4 H, 4 W), which mask tokens filter."""
        high_res_features = self.own_features(high_res_features)
        widen, norm, activation, widen_again, activation_again = self.upscale
        x = widen(maps)
        x = activation(norm(x + high_res_features[1] if high_res_features else x))
        x = widen_again(x)
        return activation_again(x + high_res_features[0] if high_res_features else x)

    def own_features(self, high_res_features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Those channels of the high-resolution features that join the upscaled map: all, unless an extending decoder
        adds some."""
        return high_res_features

    def finish(self, masks: Tensor, high_res_features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, M, h, w) as they leave the decoder: as drawn, unless an extending decoder changes them."""
        return masks

    def with_own_tokens(self, sparse: Tensor, token_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The decoder's own tokens before the prompt's, and which of them all count."""
        own = torch.cat([self.presence_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        if token_mask is not None:
            token_mask = torch.cat([token_mask.new_ones(sparse.shape[0], own.shape[0]), token_mask], dim=1)
        return tokens, token_mask
