"""Values go to a GPU while it computes: from pinned memory, on a stream of their own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device; on a GPU without waiting for it, and beside what it computes."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    here, aside = torch.cuda.current_stream(device), _stream(device)
    pinned = values.pin_memory()
    with torch.cuda.stream(aside):
        moved = pinned.to(device, non_blocking=True)
    here.wait_stream(aside)
    moved.record_stream(here)  # its memory is not given away before those who read it here have done so
    return moved


@functools.cache
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)
