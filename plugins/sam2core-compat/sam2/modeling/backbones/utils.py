"""Windows of a map and patches of an image, under Meta's names, over sam2core's operators."""

from __future__ import annotations

from torch import Tensor, nn

from sam2.untouched import written
from sam2core.ops.windows import merge, partition


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """A map (B, H, W, C) in windows (B * windows, w, w, C), padded below and right, and its padded (H, W)."""
    return partition(x, window_size)


def window_unpartition(windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """The inverse of `window_partition`: a map (B, H, W, C) with (H, W) = `hw`."""
    return merge(windows.reshape(-1, window_size, window_size, windows.shape[-1]), pad_hw, hw)


class PatchEmbed(nn.Module):
    """Overlapping patches: an image (B, 3, H, W) to tokens (B, H / 4, W / 4, C)."""

    def __init__(
        self,
        kernel_size: tuple[int, ...] = (7, 7),
        stride: tuple[int, ...] = (4, 4),
        padding: tuple[int, ...] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 768,
    ):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


written(globals())
