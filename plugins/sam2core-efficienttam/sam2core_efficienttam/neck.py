"""The neck of EfficientTAM: one map, made as wide as the model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sam2core.ops.layers import LayerNorm2d


class SingleLevelNeck(nn.Module):
    """A pointwise and a 3 x 3 convolution, each with a layer norm behind it: one map (B, dim, H / 16, W / 16).

    There are no finer maps, so the mask decoder is built without skips. Source: EfficientTAM's ``ViTDetNeck``.
    Raises ValueError for a backbone with more than one map, or of another stride than 16.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], dim: int) -> None:
        super().__init__()
        if tuple(strides) != (16,):
            raise ValueError(f"this neck takes a backbone of one map at stride 16, not of strides {list(strides)}")
        self.lateral = nn.Conv2d(channels[0], dim, kernel_size=1, bias=False)
        self.lateral_norm = LayerNorm2d(dim)
        self.smooth = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False)
        self.smooth_norm = LayerNorm2d(dim)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's only map to the model's."""
        (x,) = maps
        return [self.smooth_norm(self.smooth(self.lateral_norm(self.lateral(x))))]
