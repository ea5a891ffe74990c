"""The neck: a pyramid becomes maps of one width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fpn(nn.Module):
    """Lateral 1x1 convolutions, with a top-down sum on chosen strides: maps (B, dim, H / s, W / s) at strides 4, 8, 16.

    `channels` and `strides` describe the backbone's maps, finest first. `top_down` lists the strides that receive the
    next coarser level, doubled by nearest neighbour in fp32. Maps coarser than stride 16 only serve that sum; maps
    finer than stride 4, which some backbones make, are not read.
    Source: Meta's ``FpnNeck`` with ``scalp=1``.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], dim: int, *, top_down: Sequence[int] = (16,)
    ) -> None:
        super().__init__()
        if unknown := sorted(set(top_down) - set(strides)):
            raise ValueError(f"top_down names strides {unknown}; the backbone has {list(strides)}")
        self.finer = sum(stride < 4 for stride in strides)  # the maps in front that are passed over
        self.lateral = nn.ModuleList(nn.Conv2d(width, dim, kernel_size=1) for width in channels[self.finer :])
        self.strides = tuple(strides[self.finer :])
        self.top_down = frozenset(top_down)

    def to_mixed_precision(self, dtype: torch.dtype) -> None:
        """Stays as it is: all masks follow from what it makes, for one or two hundredths of the trunk's time."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        coarser: Tensor | None = None
        for stride, lateral, x in reversed(list(zip(self.strides, self.lateral, maps[self.finer :], strict=True))):
            x = lateral(x)
            if stride in self.top_down and coarser is not None:
                x = x + F.interpolate(coarser.float(), scale_factor=2.0, mode="nearest").to(x.dtype)
            coarser = x
            if stride <= 16:
                out.append(x)
        return out[::-1]
