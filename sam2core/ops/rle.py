"""COCO run-length coding of masks: how every annotation tool and evaluator exchanges them.

A coded mask is ``{"size": [height, width], "counts": text}``, the form `pycocotools` reads and writes, byte for byte.
Runs go down the columns, start with the (possibly empty) run of zeros, and are written as differences in base 32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_DIGITS = 13  # base-32 digits that hold any int64


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Code one mask.

    Args:
        mask: (H, W), bool or integers; anything that is not zero is inside. A CPU tensor will do.

    Returns:
        ``{"size": [H, W], "counts": str}``, ready for JSON.

    Raises:
        ValueError: the mask is not a two-dimensional array of booleans or integers.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise ValueError(f"a mask is a (H, W) array of booleans or integers, not {mask.shape} of {mask.dtype}")
    height, width = mask.shape
    return {"size": [int(height), int(width)], "counts": compress(runs(mask))}


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """Turn a coded mask back into a (H, W) bool array.

    ``counts`` may be text, the bytes `pycocotools` gives, or a list of run lengths (COCO's uncompressed form).

    Raises:
        ValueError: the text is damaged, or its runs do not fill the size.
    """
    try:
        size, counts = rle["size"], rle["counts"]
    except (KeyError, TypeError):
        raise ValueError("a coded mask has the keys 'size' and 'counts'") from None
    height, width = (int(side) for side in size)
    lengths = decompress(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, dtype=np.int64)
    if lengths.size and (lengths.min() < 0 or lengths.sum() != height * width) or not lengths.size and height * width:
        raise ValueError(f"the runs of this mask cover {int(lengths.sum())} pixels, its size is {height} x {width}")
    return fill(lengths, (height, width))


def area(rle: Mapping[str, Any]) -> int:
    """Count the pixels inside a coded mask without decoding it."""
    counts = rle["counts"]
    lengths = decompress(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, dtype=np.int64)
    return int(lengths[1::2].sum())


def runs(mask: np.ndarray) -> np.ndarray:
    """Return the lengths of the alternating runs of zeros and ones down the columns of a (H, W) mask, zeros first."""
    flat = np.asarray(mask).T.ravel() != 0
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(edges, prepend=0, append=flat.size)
    return np.concatenate(([0], lengths)) if flat.size and flat[0] else lengths


def runs_within(mask: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The `runs` of an image of `size` (H, W) that is zero but for this part (h, w), whose first pixel is at x, y.

    Only the part is looked at, so a small object in a large image costs what it covers.
    """
    return runs_of_parts([(mask, corner)], size)


def runs_of_parts(parts: Iterable[tuple[np.ndarray, tuple[int, int]]], size: tuple[int, int]) -> np.ndarray:
    """`runs_within` of several parts with their corners, from left to right, that share no column."""
    height, width = size
    edges = np.concatenate([_edges(np.asarray(mask) != 0, corner, height) for mask, corner in parts])
    # a run down to the last row goes on at the top of the next column
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    if edges.size and edges[-1] == height * width:
        edges = edges[:-1]
    return np.diff(edges, prepend=0, append=height * width)


def _edges(part: np.ndarray, corner: tuple[int, int], height: int) -> np.ndarray:
    """Where, down the columns of an image of that height, runs of ones begin and end, in turns."""
    padded = np.zeros((part.shape[1], part.shape[0] + 2), dtype=bool)  # columns, so that every run has both ends
    padded[:, 1:-1] = part.T
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    return (column + corner[0]) * height + row + corner[1]


def fill(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The (H, W) bool mask of run lengths down the columns, zeros first."""
    inside = np.zeros(len(counts), dtype=bool)
    inside[1::2] = True
    return np.ascontiguousarray(np.repeat(inside, counts).reshape(size[1], size[0]).T)


def compress(counts: Sequence[int] | np.ndarray) -> str:
    """Write run lengths as COCO's text: from the fourth on, the difference to the run two before, in base 32."""
    values = np.array(counts, dtype=np.int64)
    values[3:] -= np.asarray(counts, dtype=np.int64)[1:-2]
    digits = np.empty((values.size, _DIGITS), dtype=np.uint8)
    written = np.zeros((values.size, _DIGITS), dtype=bool)
    going = np.ones(values.size, dtype=bool)
    for place in range(_DIGITS):
        if not going.any():
            break
        digit = values & 31
        values >>= 5
        more = np.where(digit & 16, values != -1, values != 0)  # the fifth bit is the sign, as in LEB128
        digits[:, place] = digit + 32 * more + 48
        written[:, place] = going
        going &= more
    return digits[written].tobytes().decode("ascii")


def decompress(text: str | bytes) -> np.ndarray:
    """Read COCO's text back into run lengths.

    Raises:
        ValueError: a character outside the code, or text that stops within a number.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    digits = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if not digits.size:
        return digits
    if digits.min() < 0 or digits.max() > 63:
        raise ValueError("this is not a COCO run-length string: it has characters outside '0' to 'o'")
    last = (digits & 32) == 0
    if not last[-1]:
        raise ValueError("this COCO run-length string stops in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(digits.size) - np.repeat(starts, ends - starts + 1)
    if place.max() >= _DIGITS:
        raise ValueError("this COCO run-length string has a number too large to be a run")
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    values = np.where(digits[ends] & 16, values - (np.int64(1) << np.minimum(5 * (place[ends] + 1), 62)), values)
    values[2::2] = np.cumsum(values[2::2])
    values[1::2] = np.cumsum(values[1::2])
    return values
