"""What upstream's image encoder is built of, and the built one under its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sam2core.model import Sam2
from sam2core.ops.position import sine_grid


@dataclass
class FpnNeck:
    """A description of the neck, with upstream's options and defaults."""

    position_encoding: Any
    d_model: int
    backbone_channel_list: Sequence[int]
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    fpn_interp_model: str = "bilinear"
    fuse_type: str = "sum"
    fpn_top_down_levels: Sequence[int] | None = None


@dataclass
class ImageEncoder:
    """A description of trunk and neck, with upstream's options and defaults."""

    trunk: Any
    neck: Any
    scalp: int = 0


class BuiltImageEncoder(nn.Module):
    """A model's trunk and neck, called as upstream's ``ImageEncoder`` is."""

    def __init__(self, core: Sam2) -> None:
        super().__init__()
        self.trunk = core.backbone
        self.neck = core.neck

    def forward(self, sample: Tensor) -> dict[str, Any]:
        """Normalised pixels (B, 3, H, W) to maps and their sine positions, finest first; the last is repeated."""
        maps = self.neck(self.trunk(sample))
        positions = [
            sine_grid((x.shape[-2], x.shape[-1]), maps[-1].shape[1], x.device)
            .to(x.dtype)
            .expand(x.shape[0], -1, -1, -1)
            for x in maps
        ]
        return {"vision_features": maps[-1], "vision_pos_enc": positions, "backbone_fpn": list(maps)}
