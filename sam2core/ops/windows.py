"""Cut a map into square windows, and put it together again."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def partition(maps: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """(B, H, W, C) to (B * windows, window, window, C), padded with zeros below and right; and the padded (H, W).

    Contiguous, as is what `merge` gives: a linear layer multiplies strided maps one row at a time.
    """
    batch, height, width, dim = maps.shape
    pad_h, pad_w = -height % window, -width % window
    if pad_h or pad_w:
        maps = F.pad(maps, (0, 0, 0, pad_w, 0, pad_h))
    height, width = height + pad_h, width + pad_w
    maps = maps.view(batch, height // window, window, width // window, window, dim)
    return maps.transpose(2, 3).reshape(-1, window, window, dim).contiguous(), (height, width)


def merge(windows: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `partition`: (B * windows, w, w, C) to (B, H, W, C) with `size` = (H, W), the padding cut off."""
    window, dim = windows.shape[1], windows.shape[3]
    rows, columns = padded[0] // window, padded[1] // window
    maps = windows.view(-1, rows, columns, window, window, dim).transpose(2, 3).reshape(-1, *padded, dim)
    return maps[:, : size[0], : size[1]].contiguous()
