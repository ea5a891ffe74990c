"""Four strided convolutions."""

from __future__ import annotations

from torch import Tensor, nn


class Pyramid(nn.Module):
    """Maps at strides 4, 8, 16 and 32, each twice as wide as the one before."""

    strides = (4, 8, 16, 32)

    def __init__(self, *, width: int = 8) -> None:
        super().__init__()
        self.channels = tuple(width * 2**level for level in range(4))
        self.stem = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.steps = nn.ModuleList(nn.Conv2d(c, 2 * c, kernel_size=2, stride=2) for c in self.channels[:-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image).relu()]
        for step in self.steps:
            maps.append(step(maps[-1]).relu())
        return maps
