"""A neck for plain ViTs: one map becomes a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sam2core.ops.layers import LayerNorm2d


class SimplePyramid(nn.Module):
    """The only map of a plain ViT, at stride 16, to maps (B, dim, H / s, W / s) at the strides s = 4, 8 and 16.

    Finer maps are made by transposed convolutions, each map then by a pointwise and a 3 x 3 convolution with layer
    norms, without sums between the levels. Source: Li et al. 2022, "Exploring Plain Vision Transformer Backbones for
    Object Detection", section 3. Raises ValueError for a backbone with more than one map, or of another stride.
    """

    made_strides = (4, 8, 16)

    def __init__(self, channels: Sequence[int], strides: Sequence[int], dim: int) -> None:
        super().__init__()
        if tuple(strides) != (16,):
            raise ValueError(
                f"neck 'timm.pyramid' takes a backbone of one map at stride 16, not of strides {list(strides)}; "
                "for a backbone that has a pyramid there is 'fpn'"
            )
        (width,) = channels
        half, quarter = width // 2, width // 4
        self.enlarge = nn.ModuleList(
            [
                nn.Sequential(_doubled(width, half), LayerNorm2d(half), nn.GELU(), _doubled(half, quarter)),
                _doubled(width, half),
                nn.Identity(),
            ]
        )
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, dim, kernel_size=1, bias=False),
                LayerNorm2d(dim),
                nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False),
                LayerNorm2d(dim),
            )
            for wide in (quarter, half, width)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's only map (B, C, H / 16, W / 16) to three, finest first."""
        (x,) = maps
        return [project(enlarge(x)) for enlarge, project in zip(self.enlarge, self.project)]


def _doubled(channels: int, out: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, out, kernel_size=2, stride=2)
