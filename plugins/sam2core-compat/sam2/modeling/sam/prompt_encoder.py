"""A model's prompt encoder, called as upstream's is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam2core.heads.prompt_encoder import PromptEncoder as CorePromptEncoder
from sam2core.ops.position import fourier
from sam2core.types import Label, Prompt

_NAMES = {
    "point_embeddings": "label_embed",
    "not_a_point_embed": "padding_embed",
    "mask_downscaling": "mask_stem",
    "no_mask_embed": "no_mask",
}


class PositionEmbeddingRandom(nn.Module):
    """The random Fourier code of places."""

    def __init__(self, inner: CorePromptEncoder) -> None:
        super().__init__()
        self.inner = inner

    @property
    def positional_encoding_gaussian_matrix(self) -> Tensor:
        return self.inner.frequencies

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """The code (..., C) of x, y places (..., 2) in [0, 1]."""
        return fourier(coords, self.inner.frequencies)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """The code (C, H, W) of a grid's cells."""
        return self.inner.position((size[0], size[1]))[0]

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The code (B, N, C) of places (B, N, 2) in pixels of an image of (H, W)."""
        return self._pe_encoding(coords_input / coords_input.new_tensor([image_size[1], image_size[0]]))


class PromptEncoder(nn.Module):
    """Points, boxes and masks to sparse and dense embeddings, with upstream's call and attribute names."""

    def __init__(self, inner: CorePromptEncoder) -> None:
        super().__init__()
        self.inner = inner
        self.pe_layer = PositionEmbeddingRandom(inner)

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return getattr(self.inner, _NAMES[name])
        return super().__getattr__(name)

    @property
    def embed_dim(self) -> int:
        return self.inner.no_mask.embedding_dim

    @property
    def input_image_size(self) -> tuple[int, int]:
        return self.inner.image_size

    @property
    def image_embedding_size(self) -> tuple[int, int]:
        return self.inner.image_size[0] // 16, self.inner.image_size[1] // 16

    @property
    def mask_input_size(self) -> tuple[int, int]:
        return self.inner.mask_input_size

    def get_dense_pe(self) -> Tensor:
        """The code (1, C, H, W) of the embedding's cells."""
        return self.inner.position(self.image_embedding_size)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sparse (B, N, C) and dense (B, C, H, W) embeddings.

        Points (B, P, 2) with labels (B, P) come before boxes (B, 4), all in model pixels; a padding point follows when
        there is no box. `masks` (B, 1, h, w) are logits.
        """
        device = self.inner.no_mask.weight.device
        given = [
            part.shape[0] for part in (points[0] if points is not None else None, boxes, masks) if part is not None
        ]
        batch = given[0] if given else 1
        xy, labels = [], []
        if points is not None:
            xy.append(points[0])
            labels.append(points[1])
        if boxes is not None:
            xy.append(boxes.reshape(-1, 2, 2))
            corners = [int(Label.TOP_LEFT), int(Label.BOTTOM_RIGHT)]
            labels.append(torch.tensor([corners], dtype=torch.int32, device=device).expand(boxes.shape[0], -1))
        if xy:
            prompt = Prompt(torch.cat(xy, dim=1), torch.cat([part.to(torch.int32) for part in labels], dim=1), masks)
        else:
            prompt = Prompt(
                torch.zeros(batch, 0, 2, device=device),
                torch.zeros(batch, 0, dtype=torch.int32, device=device),
                masks,
            )
        sparse, dense, _ = self.inner(prompt)
        if boxes is not None:
            sparse = sparse[:, :-1]
        if masks is None:
            dense = dense.expand(batch, -1, *self.image_embedding_size)
        return sparse, dense
