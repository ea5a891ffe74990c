"""Trunk and neck, as Meta's sam2 has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sam2.untouched import written


class ImageEncoder(nn.Module):
    """A trunk and a neck; `scalp` of the coarsest maps are dropped."""

    def __init__(self, trunk: nn.Module, neck: nn.Module, scalp: int = 0):
        super().__init__()
        self.trunk = trunk
        self.neck = neck
        self.scalp = scalp
        made, read = list(trunk.channel_list), list(neck.backbone_channel_list)  # type: ignore[arg-type]
        if made != read:
            raise ValueError(f"the trunk's maps have {made} channels, the neck's backbone_channel_list is {read}")

    def forward(self, sample: Tensor) -> dict[str, Any]:
        """Normalised pixels (B, 3, H, W) to maps and their sine positions, finest first; the last is repeated."""
        maps, positions = self.neck(self.trunk(sample))
        if self.scalp > 0:
            maps, positions = maps[: -self.scalp], positions[: -self.scalp]
        return {"vision_features": maps[-1], "vision_pos_enc": positions, "backbone_fpn": maps}


class FpnNeck(nn.Module):
    """Maps of one width, `d_model`; a level of `fpn_top_down_levels` (all, when None) gets the next coarser one added.

    `backbone_channel_list` and `convs` begin with the coarsest map, what it takes and gives with the finest.
    """

    def __init__(
        self,
        position_encoding: nn.Module,
        d_model: int,
        backbone_channel_list: list[int],
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        fpn_interp_model: str = "bilinear",
        fuse_type: str = "sum",
        fpn_top_down_levels: Sequence[int] | None = None,
    ):
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type is 'sum' or 'avg', not {fuse_type!r}")
        self.position_encoding = position_encoding
        self.convs = nn.ModuleList()
        self.backbone_channel_list = backbone_channel_list
        self.d_model = d_model
        for width in backbone_channel_list:
            lateral = nn.Conv2d(width, d_model, kernel_size=kernel_size, stride=stride, padding=padding)
            self.convs.append(nn.Sequential())
            self.convs[-1].add_module("conv", lateral)
        self.fpn_interp_model = fpn_interp_model
        self.fuse_type = fuse_type
        levels = range(len(self.convs)) if fpn_top_down_levels is None else fpn_top_down_levels
        self.fpn_top_down_levels = list(levels)

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The trunk's maps to as many of width `d_model`, and their positions."""
        assert len(xs) == len(self.convs), f"the neck reads {len(self.convs)} maps, not {len(xs)}"
        maps: list[Tensor] = []
        positions: list[Tensor] = []
        for level in range(len(xs) - 1, -1, -1):  # from the coarsest
            x = self.convs[len(xs) - 1 - level](xs[level])
            if level in self.fpn_top_down_levels and maps:
                bilinear = None if self.fpn_interp_model == "nearest" else False
                x = x + F.interpolate(
                    maps[0].float(), scale_factor=2.0, mode=self.fpn_interp_model, align_corners=bilinear
                )
                x = x / 2 if self.fuse_type == "avg" else x
            maps.insert(0, x)
            positions.insert(0, self.position_encoding(x).to(x.dtype))
        return maps, positions


written(globals())
