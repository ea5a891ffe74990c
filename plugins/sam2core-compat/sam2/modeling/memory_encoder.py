"""What upstream's memory encoder is built of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class MaskDownSampler:
    """A description of the mask's convolutional stem, with upstream's options and defaults."""

    embed_dim: int = 256
    kernel_size: int = 4
    stride: int = 4
    padding: int = 0
    total_stride: int = 16
    activation: Any = None


@dataclass
class CXBlock:
    """A description of a ConvNeXt block, with upstream's options and defaults."""

    dim: int
    kernel_size: int = 7
    padding: int = 3
    drop_path: float = 0.0
    layer_scale_init_value: float = 1e-6
    use_dwconv: bool = True


@dataclass
class Fuser:
    """A description of the blocks that mix mask and image, with upstream's options."""

    layer: Any
    num_layers: int
    dim: int | None = None
    input_projection: bool = False


@dataclass
class MemoryEncoder:
    """A description of the memory encoder, with upstream's options and defaults."""

    out_dim: int
    mask_downsampler: Any
    fuser: Any
    position_encoding: Any
    in_dim: int = 256
