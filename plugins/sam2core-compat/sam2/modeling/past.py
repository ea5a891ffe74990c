"""Which frames a frame looks back at, and what they are as tokens: Meta's rules over its dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Outputs = Mapping[int, Mapping[str, Any]]


def recent_frames(frame: int, count: int, stride: int, *, backwards: bool) -> list[int]:
    """The frames whose memories are looked for, oldest first: the neighbour, and every `stride`-th one before it.

    "Before" is where tracking comes from.
    """
    sign = -1 if backwards else 1
    # the nearest multiple of the stride that is at least two frames away, and `count` - 2 further ones
    nearest = sign * ((sign * frame - 2) // stride) * stride
    further = [nearest - sign * step * stride for step in range(count - 1)]
    return [*further[::-1], frame - sign] if count > 0 else []


def slots(selected: Outputs, others: Outputs, recent: list[int]) -> list[tuple[int, Mapping[str, Any]]]:
    """Memories with their place in time: 0 for prompted frames, then 1 and on for `recent` frames that are known."""
    found = [(0, out) for out in selected.values()]
    return found + [(place, others[at]) for place, at in enumerate(recent, start=1) if at in others]


def pointers(
    selected: Outputs, others: Outputs, frame: int, limit: int, length: int | None, *, backwards: bool, signed: bool
) -> list[tuple[int, Tensor]]:
    """Object pointers with their age: those of prompted frames, and of up to `limit` - 1 frames before this one."""
    sign = -1 if backwards else 1
    found = []
    for at, out in selected.items():
        age = (frame - at) * sign
        found.append((age if signed else abs(age), out["obj_ptr"]))
    for age in range(1, limit):
        at = frame - sign * age
        if at < 0 or (length is not None and at >= length):
            break
        if at in others:
            found.append((age, others[at]["obj_ptr"]))
    return found


def tokens_of(maps: Tensor, device: torch.device) -> Tensor:
    """A map (B, C, h, w) as tokens (h * w, B, C)."""
    return maps.to(device, non_blocking=True).flatten(2).permute(2, 0, 1)
