"""Small functions of upstream's model, under its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sam2core.ops.position import sine_time


def select_closest_cond_frames(
    frame_idx: int, cond_frame_outputs: Mapping[int, Any], max_cond_frame_num: int
) -> tuple[dict[int, Any], dict[int, Any]]:
    """The prompted frames to attend to (all for -1; at least 2 otherwise), and the rest."""
    if max_cond_frame_num == -1 or len(cond_frame_outputs) <= max_cond_frame_num:
        return dict(cond_frame_outputs), {}
    if max_cond_frame_num < 2:
        raise ValueError(f"at least 2 prompted frames are attended to, or all (-1), not {max_cond_frame_num}")
    from sam2core.memory.policy import RecentFrames

    selected = RecentFrames(prompted=max_cond_frame_num)._nearest(dict(cond_frame_outputs), frame_idx)
    return selected, {at: out for at, out in cond_frame_outputs.items() if at not in selected}


def get_1d_sine_pe(pos_inds: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """The code (N, dim) of points in time (N,)."""
    return sine_time(pos_inds, dim, temperature)
