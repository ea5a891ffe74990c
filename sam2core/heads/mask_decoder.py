"""Four mask tokens become four masks, their scores and the object's presence."""

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

    Tokens are presence, IoU, four masks, then the prompt's. Each mask token makes a filter for the upscaled image map
    (stride 4), which the projected finer maps of the neck join on the way up (`skips`).
    `stability` holds the ``delta`` and ``threshold`` of the fallback from an unstable single mask, which the model
    applies when it predicts; None turns it off. Source: upstream ``MaskDecoder``.
    """

    MASKS = 4

    def __init__(
        self,
        dim: int,
        *,
        skips: bool = True,
        heads: int = 8,
        hidden: int = 2048,
        stability: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
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
        self.skip_stride4 = nn.Conv2d(dim, dim // 8, kernel_size=1) if skips else None
        self.skip_stride8 = nn.Conv2d(dim, dim // 4, kernel_size=1) if skips else None
        self.mask_mlps = nn.ModuleList(Mlp(dim, dim, dim // 8, layers=3) for _ in range(self.MASKS))
        self.iou_head = Mlp(dim, dim, self.MASKS, layers=3)
        self.presence_head = Mlp(dim, dim, 1, layers=3)

    def project_skips(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The neck's maps at strides 4 and 8, as narrow as the upscaled map wants them; () without skips.

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
        skips: tuple[Tensor, ...],
        counts: Tensor | None = None,
    ) -> DecoderOutput:
        """Four masks at stride 4 from the embedding (1 or B, C, H, W), its position and the prompt (B, P, C).

        `dense` is the prompt's map, broadcastable to the embedding; `skips` come from `project_skips`;
        `counts` (B, P) marks the prompt tokens that are meant; None: all of them.
        """
        batch = sparse.shape[0]
        height, width = embedding.shape[-2:]
        own = torch.cat([self.presence_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(batch, -1, -1), sparse], dim=1)
        if counts is not None:
            counts = torch.cat([counts.new_ones(batch, own.shape[0]), counts], dim=1)

        image = (embedding + dense).flatten(2).transpose(1, 2)
        tokens, image = self.transformer(tokens, image, position.flatten(2).transpose(1, 2), counts)
        mask_tokens = tokens[:, 2 : 2 + self.MASKS]

        maps = image.transpose(1, 2).unflatten(2, (height, width))
        widen, norm, activation, widen_again, activation_again = self.upscale
        x = widen(maps)
        x = activation(norm(x + skips[1] if skips else x))
        x = widen_again(x)
        x = activation_again(x + skips[0] if skips else x)
        filters = torch.stack([mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.mask_mlps)], dim=1)
        masks = (filters @ x.flatten(2)).unflatten(2, x.shape[-2:])

        return DecoderOutput(
            masks=masks,
            iou=F.sigmoid(self.iou_head(tokens[:, 1])),
            tokens=mask_tokens,
            presence=self.presence_head(tokens[:, 0]),
        )
