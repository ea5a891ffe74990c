"""The exact Euclidean distance transform on a GPU, one direction after the other.

Down each column the distance to the nearest False pixel is a running count in both directions; along each row the
squared distance is the least, over all columns, of their squared heights plus the squared way there. Source:
P. Felzenszwalb and D. Huttenlocher, "Distance Transforms of Sampled Functions", Theory of Computing 8 (2012), with the
plain minimum in the place of the envelope of parabolas: on a GPU, reading a row a few times beats a serial scan.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2core_cuda.launch import on_device

COLUMNS = 64  # per program, down the image; a thread each
TILE = 64  # columns that a program writes, and that it reads at a time, along a row
FAR = 2**30  # the squared height of a column without a False pixel
LONGEST = 2**14  # of a side: squared distances and FAR together stay within 32 bits


@triton.jit
def _down(masks, squares, height, width, FAR: tl.constexpr, BLOCK: tl.constexpr):
    """The squared distance of each pixel to the nearest False one of its column, FAR when there is none."""
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = x < width
    at = tl.program_id(0).to(tl.int64) * height * width + x
    steps = tl.full((BLOCK,), 32768, tl.int32)
    for y in range(height):
        inside = tl.load(masks + at + y * width, mask=live, other=0) != 0
        steps = tl.where(inside, tl.minimum(steps + 1, 32768), 0)
        tl.store(squares + at + y * width, steps, mask=live)
    tl.debug_barrier()  # what one thread of the program stored another may read
    steps = tl.full((BLOCK,), 32768, tl.int32)
    for back in range(height):
        place = at + (height - 1 - back) * width
        above = tl.load(squares + place, mask=live, other=0)
        steps = tl.where(above == 0, 0, tl.minimum(steps + 1, 32768))
        least = tl.minimum(steps, above)
        tl.store(squares + place, tl.where(least >= 32768, FAR, least * least), mask=live)


@triton.jit
def _across(squares, out, width, TILE: tl.constexpr):
    """The least of the columns' squares plus the squared way there, for `TILE` pixels of one row."""
    row = tl.program_id(0).to(tl.int64) * width
    x = tl.program_id(1) * TILE + tl.arange(0, TILE)
    least = tl.full((TILE,), 2147483647, tl.int32)
    for start in range(0, width, TILE):
        other = start + tl.arange(0, TILE)
        square = tl.load(squares + row + other, mask=other < width, other=1073741824)
        way = x[:, None] - other[None, :]
        least = tl.minimum(least, tl.min(way * way + square[None, :], axis=1))
    tl.store(out + row + x, least, mask=x < width)


def distances(mask: Tensor) -> Tensor:
    """The distance, fp32, of each True pixel of masks (..., H, W) to the nearest False one: `distance_transform`.

    Nothing waits for the host. Raises ValueError for a side of more than 16384 pixels.
    """
    height, width = mask.shape[-2:]
    if max(height, width) > LONGEST:
        raise ValueError(f"masks of {height} x {width} pixels are too large: {LONGEST} a side at most")
    if not mask.numel():
        return torch.empty(mask.shape, dtype=torch.float32, device=mask.device)
    flat = mask.bool().reshape(-1, height, width).contiguous()
    columns = torch.empty(flat.shape, dtype=torch.int32, device=mask.device)
    squares = torch.empty_like(columns)
    count = flat.shape[0]  # the first axis of a grid is the long one: the others end at 65535 programs
    with on_device(mask):
        _down[(count, triton.cdiv(width, COLUMNS))](
            flat.view(torch.uint8), columns, height, width, FAR=FAR, BLOCK=COLUMNS, num_warps=COLUMNS // 32
        )
        _across[(count * height, triton.cdiv(width, TILE))](columns, squares, width, TILE=TILE)
    return _beyond(flat, squares.float().sqrt()).view(mask.shape)


def _beyond(flat: Tensor, out: Tensor) -> Tensor:
    """Masks without a False pixel are measured to a border of False pixels around them."""
    height, width = flat.shape[-2:]
    y = torch.arange(height, device=flat.device)
    x = torch.arange(width, device=flat.device)
    border = torch.minimum(torch.minimum(y + 1, height - y)[:, None], torch.minimum(x + 1, width - x)[None, :])
    full = flat.flatten(1).all(dim=1)[:, None, None]
    return torch.where(full, border.float(), out)
