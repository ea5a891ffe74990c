"""Connected regions of masks on a GPU: union-find over blocks of 2 x 2 pixels.

The foreground pixels of such a block are always neighbours of each other, diagonals included, so a block has one label
and a quarter of the nodes is left. Nodes are joined with atomic minima. Sources: D. P. Playne and K. Hawick, "A New
Algorithm for Parallel Connected-Component Labelling on GPUs", IEEE TPDS 29 (2018); S. Allegretti, F. Bolelli and
C. Grana, "Optimized Block-Based Algorithms to Label Connected Components on GPUs", IEEE TPDS 31 (2020).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2core_cuda.launch import on_device

BLOCK = 256  # nodes per program


@triton.jit
def _pixel(masks, base, y, x, height, width, live):
    """Whether pixels are foreground; those beyond the border are not."""
    inside = live & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return tl.load(masks + base + y * width + x, mask=inside, other=0) != 0


@triton.jit
def _root(parents, node, live):
    """The root of each live node's tree. A parent is never larger than its child, so the walk ends."""
    parent = tl.load(parents + node, mask=live, other=0)
    parent = tl.where(live, parent, node)
    while tl.max((parent != node).to(tl.int32), axis=0) > 0:
        node = parent
        parent = tl.where(live, tl.load(parents + node, mask=live, other=0), node)
    return node


@triton.jit
def _join(parents, one, other, live):
    """Make each live pair of nodes members of one tree."""
    while tl.max(live.to(tl.int32), axis=0) > 0:
        one = _root(parents, one, live)
        other = _root(parents, other, live)
        high = tl.maximum(one, other)
        low = tl.minimum(one, other)
        live = live & (high != low)
        before = tl.atomic_min(parents + high, low, mask=live)
        # Someone was faster when the root had another parent already: that one is to be joined as well.
        live = live & (before != high)
        one = tl.where(live, before, low)
        other = low


@triton.jit
def _merge(masks, parents, nodes, height, width, rows, columns, BLOCK: tl.constexpr):
    """Join each block that holds foreground with its neighbours above and to the left."""
    node = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = node < nodes
    per = rows * columns
    image = node // per
    row = (node % per) // columns
    column = node % columns
    base = image.to(tl.int64) * height * width
    y = 2 * row
    x = 2 * column

    top_left = _pixel(masks, base, y, x, height, width, live)
    top_right = _pixel(masks, base, y, x + 1, height, width, live)
    low_left = _pixel(masks, base, y + 1, x, height, width, live)
    top = top_left | top_right
    left = top_left | low_left
    above = _pixel(masks, base, y - 1, x, height, width, live) | _pixel(masks, base, y - 1, x + 1, height, width, live)
    beside = _pixel(masks, base, y, x - 1, height, width, live) | _pixel(masks, base, y + 1, x - 1, height, width, live)
    _join(parents, node, node - columns, live & top & above)
    _join(parents, node, node - 1, live & left & beside)
    corner = _pixel(masks, base, y - 1, x - 1, height, width, live)
    _join(parents, node, node - columns - 1, live & top_left & corner)
    corner = _pixel(masks, base, y - 1, x + 2, height, width, live)
    _join(parents, node, node - columns + 1, live & top_right & corner)


@triton.jit
def _count(masks, parents, sizes, nodes, height, width, rows, columns, BLOCK: tl.constexpr):
    """Point each node straight at its root, and add its foreground pixels to the root's."""
    node = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = node < nodes
    root = _root(parents, node, live)
    tl.store(parents + node, root, mask=live)
    per = rows * columns
    base = (node // per).to(tl.int64) * height * width
    y = 2 * ((node % per) // columns)
    x = 2 * (node % columns)
    pixels = _pixel(masks, base, y, x, height, width, live).to(tl.int32)
    pixels += _pixel(masks, base, y, x + 1, height, width, live).to(tl.int32)
    pixels += _pixel(masks, base, y + 1, x, height, width, live).to(tl.int32)
    pixels += _pixel(masks, base, y + 1, x + 1, height, width, live).to(tl.int32)
    tl.atomic_add(sizes + root, pixels, mask=live & (pixels > 0))


@triton.jit
def _write(masks, parents, sizes, labels, areas, pixels, height, width, rows, columns, BLOCK: tl.constexpr):
    """Each foreground pixel's label and its region's area; zeros elsewhere."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < pixels
    image = at // (height * width)
    y = (at // width) % height
    x = at % width
    inside = tl.load(masks + at, mask=live, other=0) != 0
    root = tl.load(parents + (image * rows + y // 2) * columns + x // 2, mask=live & inside, other=0)
    size = tl.load(sizes + root, mask=live & inside, other=0)
    tl.store(labels + at, tl.where(inside, root + 1, 0), mask=live)
    tl.store(areas + at, size, mask=live)


def label_regions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The labels and areas, int32, of the 8-connected regions of masks (..., H, W): `connected_components` on a GPU.

    Labels are as distinct as the operator promises, in no particular order. Nothing waits for the host.
    Raises ValueError for more than 2^31 blocks of pixels in all.
    """
    height, width = mask.shape[-2:]
    labels = torch.empty(mask.shape, dtype=torch.int32, device=mask.device)
    areas = torch.empty_like(labels)
    if not mask.numel():
        return labels, areas
    masks = mask.bool().contiguous().view(torch.uint8)
    rows, columns = triton.cdiv(height, 2), triton.cdiv(width, 2)
    nodes = mask.numel() // (height * width) * rows * columns
    if nodes >= 2**31 - 1:
        raise ValueError(f"masks of {mask.numel()} pixels in one call are too many; give them in parts")
    parents = torch.arange(nodes, dtype=torch.int32, device=mask.device)
    sizes = torch.zeros_like(parents)
    grid = (triton.cdiv(nodes, BLOCK),)
    pixels = mask.numel()
    with on_device(mask):
        _merge[grid](masks, parents, nodes, height, width, rows, columns, BLOCK=BLOCK)
        _count[grid](masks, parents, sizes, nodes, height, width, rows, columns, BLOCK=BLOCK)
        _write[(triton.cdiv(pixels, BLOCK),)](
            masks, parents, sizes, labels, areas, pixels, height, width, rows, columns, BLOCK=BLOCK
        )
    return labels, areas
