"""The trunk of the embedded model: Hiera, smaller than any of SAM 2's."""

from __future__ import annotations

from sam2core.backbones.hiera import Hiera, small_positions


def hiera_nano(*, drop_path: float = 0.0) -> Hiera:
    """Hiera nano: 2.80 M parameters; no window pads where sides are multiples of 128 pixels."""
    return small_positions(
        Hiera(32, heads=1, stages=(1, 2, 6, 2), windows=(8, 4, 8, 4), global_blocks=(5, 8), drop_path=drop_path)
    )
