"""F, how well the contours of two masks agree: 64 pixels at a time, bit for bit what davis2017-evaluation says.

A mask is packed into rows of 64-bit words, so that shifting, combining and counting cost a sixty-fourth. A dilation by
a disc of radius r is then about ten operations per pixel of r on arrays that fit the cache: for the sizes of video
faster than OpenCV's dilation and much faster than an exact distance transform, with which it agrees.
"""

from __future__ import annotations

import math

import numpy as np

from sam2core.ops.polygons import window_around

_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def pack(mask: np.ndarray) -> np.ndarray:
    """A boolean mask (H, W) as words (H, ceil(W / 64)) uint64: bit i of word j is pixel 64 j + i; the rest is zero."""
    height, width = mask.shape
    packed = np.zeros((height, -(-width // 64) * 8), dtype=np.uint8)
    packed[:, : -(-width // 8)] = np.packbits(mask, axis=1, bitorder="little")
    return packed.view("<u8")


def count(words: np.ndarray) -> int:
    """How many bits are set."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return int(np.bitwise_count(words).sum(dtype=np.int64))
    return int(_ONES[words.view(np.uint8)].sum(dtype=np.int64))


def contour(words: np.ndarray, width: int) -> np.ndarray:
    """The contour of a packed mask whose rows are `width` pixels wide, one pixel wide and half a pixel to the origin.

    A pixel belongs to it when its right, lower or lower right neighbour differs; in the last row only the right one
    counts, in the last column only the lower one, and the last pixel never does. Source: ``_seg2bmap``.
    """
    right = _moved(words, -1)
    across = words ^ right
    column, bit = divmod(width - 1, 64)
    across[:, column] &= ~(np.uint64(1) << np.uint64(bit))  # nothing is to the right of the last column
    drawn = across.copy()
    drawn[:-1] |= words[:-1] ^ words[1:]
    diagonal = words[:-1] ^ right[1:]
    diagonal[:, column] &= ~(np.uint64(1) << np.uint64(bit))
    drawn[:-1] |= diagonal
    return drawn


def dilate(words: np.ndarray, radius: int) -> np.ndarray:
    """All pixels within `radius` of a set one, by Euclid. Bits beyond the width may be set; the caller drops them."""
    height = words.shape[0]
    spread, grown = words.copy(), np.zeros_like(words)
    half = 0
    for rise in range(
        min(radius, height - 1), -1, -1
    ):  # rows far away get a narrow piece of the disc, near ones a wide
        wanted = math.isqrt(radius * radius - rise * rise)
        while half < wanted:
            half += 1
            spread |= _moved(words, half)
            spread |= _moved(words, -half)
        grown[rise:] |= spread[: height - rise]
        if rise:
            grown[:-rise] |= spread[rise:]
    return grown


def _moved(words: np.ndarray, pixels: int) -> np.ndarray:
    """Every pixel so many places to the right (to the left when negative); what leaves the row is lost."""
    jump, bits = divmod(abs(pixels), 64)
    out = np.zeros_like(words)
    columns = words.shape[1]
    if jump >= columns:
        return out
    here, spill = np.uint64(bits), np.uint64(64 - bits)
    if pixels >= 0:
        np.left_shift(words[:, : columns - jump], here, out=out[:, jump:])
        if bits:
            out[:, jump + 1 :] |= words[:, : columns - jump - 1] >> spill
    else:
        np.right_shift(words[:, jump:], here, out=out[:, : columns - jump])
        if bits:
            out[:, : columns - jump - 1] |= words[:, jump + 1 :] << spill
    return out


def contour_score(answer: np.ndarray, truth: np.ndarray, *, tolerance: float = 0.008) -> float:
    """F of two boolean masks (H, W): how well their contours agree, 0 to 1.

    Precision is the share of the answer's contour within ceil(tolerance * diagonal) pixels of the true one, recall the
    converse, F their harmonic mean. Where neither has a contour, being empty or full, F is 1; where one has none, 0.
    Raises ValueError when sizes differ. Source: ``f_measure`` of davis2017-evaluation, whose result this is exactly.
    """
    if answer.shape != truth.shape:
        raise ValueError(f"masks must have one size, got {answer.shape} and {truth.shape}")
    window = window_around(answer | truth, 1)
    if window is None:
        return 1.0
    answer, true = answer[window], truth[window]
    answer_contour = contour(pack(answer), answer.shape[1])
    true_contour = contour(pack(true), true.shape[1])
    answered, wanted = count(answer_contour), count(true_contour)
    if not answered or not wanted:
        return float(answered == wanted)
    radius = math.ceil(tolerance * float(np.linalg.norm(truth.shape)))
    precision = count(answer_contour & dilate(true_contour, radius)) / answered
    recall = count(true_contour & dilate(answer_contour, radius)) / wanted
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
