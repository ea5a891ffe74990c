"""RepViT, the convolutional backbone of EdgeTAM."""

from __future__ import annotations

import timm
from torch import Tensor, nn


class RepVit(nn.Module):
    """timm's RepViT-M1 as a pyramid: maps of 48, 96, 192 and 384 channels at strides 4, 8, 16 and 32.

    Nothing is downloaded: weights come with the model's checkpoint. Batch-norm statistics belong to the state dict.
    Source: Wang et al. 2024, "RepViT: Revisiting Mobile CNN From ViT Perspective"; EdgeTAM's ``TimmBackbone``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("repvit_m1", pretrained=False, features_only=True, out_indices=(0, 1, 2, 3))
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised pixels (B, 3, H, W), sides multiples of 32, to four maps, finest first."""
        return list(self.body(image))
