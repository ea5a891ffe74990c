"""A frame's features and its mask become a memory, as Meta's sam2 has it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sam2.modeling.sam2_utils import DropPath, LayerNorm2d, get_clones
from sam2.untouched import written


class MaskDownSampler(nn.Module):
    """A mask (B, 1, H, W) to a map (B, C, H / s, W / s) with s = `total_stride`, by convolutions of `stride`."""

    def __init__(
        self,
        embed_dim=256,
        kernel_size=4,
        stride=4,
        padding=0,
        total_stride=16,
        activation=nn.GELU,
    ):
        super().__init__()
        count = int(math.log2(total_stride) // math.log2(stride))
        if stride**count != total_stride:
            raise ValueError(f"total_stride is a power of stride: {total_stride} is none of {stride}")
        self.encoder = nn.Sequential()
        width = 1
        for _ in range(count):
            wider = width * stride**2
            self.encoder.append(nn.Conv2d(width, wider, kernel_size=kernel_size, stride=stride, padding=padding))
            self.encoder.append(LayerNorm2d(wider))
            self.encoder.append(activation())
            width = wider
        self.encoder.append(nn.Conv2d(width, embed_dim, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class CXBlock(nn.Module):
    """A ConvNeXt block: a depthwise convolution, a norm, two pointwise layers, a scale, and the sum."""

    def __init__(
        self,
        dim,
        kernel_size=7,
        padding=3,
        drop_path=0.0,
        layer_scale_init_value=1e-6,
        use_dwconv=True,
    ):
        super().__init__()
        groups = dim if use_dwconv else 1
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=kernel_size, padding=padding, groups=groups)
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale_init_value)) if layer_scale_init_value > 0 else None
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + self.drop_path(y.permute(0, 3, 1, 2))


class Fuser(nn.Module):
    """Blocks that mix mask and image; copies of `layer`."""

    def __init__(self, layer, num_layers, dim=None, input_projection=False):
        super().__init__()
        if input_projection and dim is None:
            raise ValueError("input_projection needs dim, the number of channels")
        self.proj = nn.Conv2d(dim, dim, kernel_size=1) if input_projection else nn.Identity()
        self.layers = get_clones(layer, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """The image's features plus the mask, made small and mixed: a map of memories."""

    def __init__(self, out_dim, mask_downsampler, fuser, position_encoding, in_dim=256):
        super().__init__()
        self.mask_downsampler = mask_downsampler
        self.pix_feat_proj = nn.Conv2d(in_dim, in_dim, kernel_size=1)
        self.fuser = fuser
        self.position_encoding = position_encoding
        self.out_proj = nn.Conv2d(in_dim, out_dim, kernel_size=1) if out_dim != in_dim else nn.Identity()

    def forward(self, pix_feat: Tensor, masks: Tensor, skip_mask_sigmoid: bool = False) -> dict[str, Any]:
        """Features (B, C, h, w) and a mask (B, 1, 16h, 16w) to a memory map (B, Cm, h, w) and its positions.

        The mask is of logits, or as it enters with `skip_mask_sigmoid`.
        """
        masks = self.mask_downsampler(masks if skip_mask_sigmoid else masks.sigmoid())
        x = self.pix_feat_proj(pix_feat.to(masks.device)) + masks
        x = self.out_proj(self.fuser(x))
        return {"vision_features": x, "vision_pos_enc": [self.position_encoding(x).to(x.dtype)]}


written(globals())
