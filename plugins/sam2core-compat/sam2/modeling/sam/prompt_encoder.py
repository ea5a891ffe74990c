"""What a user says, as tokens and a map, as Meta's sam2 has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam2_utils import LayerNorm2d
from sam2.untouched import written


class PromptEncoder(nn.Module):
    """Points, boxes and masks to sparse and dense embeddings. Sizes are (H, W); the image's is in model pixels."""

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.input_image_size = input_image_size
        self.image_embedding_size = image_embedding_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.num_point_embeddings: int = 4  # negative, positive, and a box's two corners
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """The code (1, C, H, W) of the embedding's cells."""
        return self.pe_layer(self.image_embedding_size).unsqueeze(0)

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """Points (B, P, 2) with labels (B, P) as tokens (B, P, C), or P + 1 with `pad`: a padding point goes last."""
        points = points + 0.5  # clicks mean pixel centres
        if pad:
            points = torch.cat([points, points.new_zeros(points.shape[0], 1, 2)], dim=1)
            labels = torch.cat([labels, -labels.new_ones(labels.shape[0], 1)], dim=1)
        code = self.pe_layer.forward_with_coords(points, self.input_image_size)
        code = torch.where((labels == -1)[..., None], self.not_a_point_embed.weight, code)
        for label, learned in enumerate(self.point_embeddings):
            code = torch.where((labels == label)[..., None], code + learned.weight, code)
        return code

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (B, 4) as tokens (B, 2, C) of their corners."""
        corners = (boxes + 0.5).reshape(-1, 2, 2)
        code = self.pe_layer.forward_with_coords(corners, self.input_image_size)
        return code + torch.stack([learned.weight[0] for learned in self.point_embeddings[2:4]])

    def _embed_masks(self, masks: Tensor) -> Tensor:
        """Masks (B, 1, h, w) of logits as a map (B, C, h / 4, w / 4)."""
        return self.mask_downscaling(masks)

    def _get_batch_size(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None) -> int:
        first = next(
            (one for one in (points[0] if points is not None else None, boxes, masks) if one is not None), None
        )
        return 1 if first is None else first.shape[0]

    def _get_device(self) -> torch.device:
        return self.point_embeddings[0].weight.device

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sparse (B, N, C) and dense (B, C, H, W) embeddings.

        Points (B, P, 2) with labels (B, P) come before boxes (B, 4), all in model pixels; a padding point follows the
        points when there is no box. `masks` (B, 1, h, w) are logits.
        """
        batch = self._get_batch_size(points, boxes, masks)
        sparse = torch.empty(batch, 0, self.embed_dim, device=self._get_device())
        if points is not None:
            sparse = torch.cat([sparse, self._embed_points(points[0], points[1], pad=boxes is None)], dim=1)
        if boxes is not None:
            sparse = torch.cat([sparse, self._embed_boxes(boxes)], dim=1)
        if masks is not None:
            return sparse, self._embed_masks(masks)
        return sparse, self.no_mask_embed.weight.view(1, -1, 1, 1).expand(batch, -1, *self.image_embedding_size)


written(globals())
