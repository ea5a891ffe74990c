"""Masks as Label Studio's brush regions store them: bit-packed runs over the bytes of an RGBA image.

The format is that of rle-pack: 32 bits with the number of values, 5 with a value's bits less one, four times 4 with
the bits of a run's length less one; then per run a flag, 2 bits that choose among the four, the length less one, and a
value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam2core_labelstudio.client import Mask

SIZES = (2, 5, 9, 16)
"""Bits for a run's length, from which the shortest that will do is taken. Readers know them from the header."""
CHANNELS = 4
HEADER = 32 + 5 + 4 * 4


def pixels(mask: Mask) -> np.ndarray:
    """A mask as (H, W) bool."""
    height, width = mask.size
    runs = np.array(mask.runs(), dtype=np.int64)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def counts(inside: np.ndarray) -> list[int]:
    """The run lengths of values along (N,) bool, outside first."""
    changes = np.flatnonzero(np.diff(inside)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [inside.size]])).tolist()
    return [0, *lengths] if inside.size and inside[0] else lengths


def coco(inside: np.ndarray) -> dict[str, object]:
    """(H, W) bool as COCO's run lengths, packed into text."""
    lengths = counts(inside.T.ravel())
    text = []
    for number, length in enumerate(lengths):
        value = length - lengths[number - 2] if number > 2 else length
        more = True
        while more:
            code = value & 0x1F
            value >>= 5
            more = value != (-1 if code & 0x10 else 0)
            text.append(chr((code | 0x20 if more else code) + 48))
    return {"size": [int(side) for side in inside.shape], "counts": "".join(text)}


def encode(inside: np.ndarray) -> list[int]:
    """(H, W) bool as the bytes of a brush region's `rle`: 255 inside, 0 outside, in all four channels."""
    longest = 2 ** SIZES[-1]
    bits = [f"{inside.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for number, length in enumerate(counts(inside.ravel())):
        value = f"{255 * (number % 2):08b}"
        rest = length * CHANNELS
        while rest:
            run = min(rest, longest)
            choice = next(choice for choice, size in enumerate(SIZES) if run <= 2**size)
            bits.append(f"1{choice:02b}{run - 1:0{SIZES[choice]}b}{value}")
            rest -= run
    packed = "".join(bits)
    whole = packed + "0" * (-len(packed) % 8)
    return list(int(whole, 2).to_bytes(len(whole) // 8, "big"))


def decode(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """A brush region's `rle` as (H, W) bool. Raises ValueError when it is damaged or has another size."""
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(rle))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a brush region's rle is a list of bytes: {error}") from error
    if len(bits) < HEADER:
        raise ValueError("the brush region's rle is cut off")
    total = int(bits[:32], 2)
    if total != size[0] * size[1] * CHANNELS:
        raise ValueError(f"the brush region has {total // CHANNELS} pixels, the image {size[0] * size[1]}")
    word = int(bits[32:37], 2) + 1
    sizes = [int(bits[37 + 4 * number : 41 + 4 * number], 2) + 1 for number in range(4)]
    values = np.zeros(total, dtype=np.uint8)
    at, position = 0, HEADER
    while at < total:
        same = bits[position : position + 1] == "1"
        width = sizes[int(bits[position + 1 : position + 3] or "0", 2)]
        position += 3
        length = int(bits[position : position + width] or "0", 2) + 1
        position += width
        if position + (word if same else word * length) > len(bits):
            raise ValueError("the brush region's rle is cut off")
        if same:
            values[at : at + length] = int(bits[position : position + word], 2) & 255
            position += word
        else:
            for number in range(min(length, total - at)):
                values[at + number] = int(bits[position : position + word], 2) & 255
                position += word
        at += length
    return values.reshape(*size, CHANNELS)[..., 3] > 127
