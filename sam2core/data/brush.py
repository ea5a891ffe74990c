"""Masks as Label Studio's brush regions store them: bit-packed runs over the bytes of an RGBA image.

32 bits with the number of values, 5 with a value's bits less one, four times 4 with the bits of a run's length less
one; then per run a flag, 2 bits that choose among the four, the length less one, and one value or that many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam2core.ops import rle

CHANNELS = 4
SIZES = (2, 5, 9, 16)
_HEADER = 32 + 5 + 4 * 4


def encode(mask: np.ndarray) -> list[int]:
    """A mask (H, W) bool as bytes: 255 inside and 0 outside in all four channels."""
    longest = 2 ** SIZES[-1]
    bits = [f"{mask.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for number, length in enumerate(rle.runs(mask.T).tolist()):  # along the rows
        rest = length * CHANNELS
        while rest:
            run = min(rest, longest)
            choice = next(choice for choice, size in enumerate(SIZES) if run <= 2**size)
            bits.append(f"1{choice:02b}{run - 1:0{SIZES[choice]}b}{255 * (number % 2):08b}")
            rest -= run
    packed = "".join(bits)
    packed += "0" * (-len(packed) % 8)
    return list(int(packed, 2).to_bytes(len(packed) // 8, "big"))


def decode(code: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a region's bytes. Raises ValueError for damaged ones and for another size."""
    bits = "".join(f"{byte:08b}" for byte in bytes(code))
    if len(bits) < _HEADER:
        raise ValueError("the brush region's rle is cut off")
    total = int(bits[:32], 2)
    if total != size[0] * size[1] * CHANNELS:
        raise ValueError(f"the brush region has {total // CHANNELS} pixels, the image {size[0] * size[1]}")
    word = int(bits[32:37], 2) + 1
    sizes = [int(bits[37 + 4 * number : 41 + 4 * number], 2) + 1 for number in range(4)]
    values = np.zeros(total, dtype=np.uint8)
    at, place = 0, _HEADER
    while at < total:
        if place + 3 > len(bits):
            raise ValueError("the brush region's rle is cut off")
        same, width = bits[place] == "1", sizes[int(bits[place + 1 : place + 3], 2)]
        length = int(bits[place + 3 : place + 3 + width] or "0", 2) + 1
        place += 3 + width
        words = 1 if same else length
        if place + word * words > len(bits):
            raise ValueError("the brush region's rle is cut off")
        found = [int(bits[start : start + word], 2) & 255 for start in range(place, place + word * words, word)]
        stop = min(at + length, total)
        values[at:stop] = found[0] if same else found[: stop - at]
        at, place = at + length, place + word * words
    return values.reshape(*size, CHANNELS)[..., 3] > 127
