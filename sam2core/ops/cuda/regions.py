"""Small regions by rounds of max-pooling: nothing leaves the device, and no shape depends on what is in a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.ops.regions import connected_components, small_regions

LARGEST = 16  # pixels of a region; each pixel more is a round more
EXACT = 2**24  # pixels of a mask: so far fp32, which pooling wants, counts without gaps


@small_regions.register_kernel("cuda")
def small_regions_on_cuda(mask: Tensor, area: int) -> Tensor:
    """`small_regions`, pooled where that is exact and nobody attached a kernel that labels on the device."""
    if area > LARGEST or mask.numel() == 0 or mask.shape[-2] * mask.shape[-1] >= EXACT:
        return small_regions.plain(mask, area)
    if connected_components.attached(mask):
        return small_regions.plain(mask, area)
    return pooled_regions(mask, area)


def pooled_regions(mask: Tensor, area: int) -> Tensor:
    """The part of boolean masks (..., H, W) that lies in 8-connected regions of at most `area` pixels.

    Each pixel begins with a name of its own and takes the largest name among its neighbours, `area` - 1 times: then all
    pixels of a region of so few have one name. In a larger region either everyone has one name too, which is counted,
    or every name meets another one somewhere and is out.
    """
    if area < 1:
        return torch.zeros_like(mask, dtype=torch.bool)
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).bool()
    count, _, height, width = flat.shape
    own = torch.arange(1, height * width + 1, dtype=torch.float32, device=mask.device).view(1, 1, height, width)
    name = torch.where(flat, own, 0.0)
    for _ in range(area - 1):
        name = torch.where(flat, F.max_pool2d(name, 3, stride=1, padding=1), 0.0)
    largest = F.max_pool2d(name, 3, stride=1, padding=1)
    smallest = -F.max_pool2d(torch.where(flat, -name, -torch.inf), 3, stride=1, padding=1)
    meets = (largest != name) | (smallest != name)
    weight = torch.where(meets, area + 1, 1).flatten(1)
    place = name.long().flatten(1)
    counted = weight.new_zeros(count, height * width + 1).scatter_add_(1, place, weight)
    return (flat.flatten(1) & (counted.gather(1, place) <= area)).view(mask.shape)
