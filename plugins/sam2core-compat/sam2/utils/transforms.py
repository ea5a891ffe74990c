"""Pixels in, masks out, under Meta's names."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from sam2.untouched import written
from sam2core.ops import masks as mask_ops
from sam2core.ops.pixels import MEAN, STD
from sam2core.predictors.postprocess import Cleaning
from sam2core.predictors.transforms import to_model


class SAM2Transforms(nn.Module):
    """Images to normalised pixels, coordinates to model pixels, and low-resolution logits to masks."""

    def __init__(self, resolution, mask_threshold, max_hole_area=0.0, max_sprinkle_area=0.0):
        super().__init__()
        self.resolution = resolution
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self.mean = list(MEAN)
        self.std = list(STD)

    def to_tensor(self, x: Any) -> Tensor:
        """A PIL image or an array (H, W, C) as (3, H, W); bytes are divided by 255, other types taken as they are."""
        if isinstance(x, Image.Image) and x.mode != "RGB":
            x = x.convert("RGB")
        values = to_tensor(x).float()
        return values.expand(3, -1, -1) if values.shape[0] == 1 else values[:3]

    def transforms(self, x: Tensor) -> Tensor:
        """Values (..., 3, H, W) resized to the model's square, bilinear with antialiasing, and normalised."""
        return torch.cat(
            [to_model(one, (self.resolution, self.resolution)) for one in x.reshape(-1, *x.shape[-3:])]
        ).view(*x.shape[:-2], self.resolution, self.resolution)

    def __call__(self, x: Any) -> Tensor:
        return self.transforms(self.to_tensor(x))

    def forward_batch(self, img_list) -> Tensor:
        """Images of any sizes to (B, 3, S, S)."""
        return torch.stack([self(image) for image in img_list])

    def transform_coords(self, coords: Tensor, normalize=False, orig_hw=None) -> Tensor:
        """Places (..., 2) in model pixels, from pixels of an image of `orig_hw` with `normalize`, else from [0, 1]."""
        if normalize:
            assert orig_hw is not None, "normalize needs the image's size, orig_hw"
            coords = coords / coords.new_tensor([orig_hw[1], orig_hw[0]])
        return coords * self.resolution

    def transform_boxes(self, boxes: Tensor, normalize=False, orig_hw=None) -> Tensor:
        """Boxes (B, 4) as corners (B, 2, 2) in model pixels."""
        return self.transform_coords(boxes.reshape(-1, 2, 2), normalize, orig_hw)

    def postprocess_masks(self, masks: Tensor, orig_hw) -> Tensor:
        """Low-resolution logits (B, M, h, w) at an image's size, holes filled and sprinkles dropped before."""
        clean = Cleaning(
            fill_holes=int(self.max_hole_area),
            drop_islands=int(self.max_sprinkle_area),
            threshold=self.mask_threshold,
        )
        return mask_ops.resize(clean(masks.float()), (int(orig_hw[0]), int(orig_hw[1])))


written(globals())
