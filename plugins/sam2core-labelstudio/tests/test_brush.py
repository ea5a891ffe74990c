"""Brush regions: what Label Studio's own converter reads and writes."""

from __future__ import annotations

import numpy as np
import pytest
from sam2core_labelstudio import Mask, brush

from sam2core.ops import rle


def drawn() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    grid = np.indices((70, 90)).sum(axis=0)
    return {
        "nothing": np.zeros((7, 5), dtype=bool),
        "all": np.ones((300, 400), dtype=bool),
        "noise": generator.random((33, 47)) > 0.5,
        "checks": grid % 2 == 0,
        "bands": (grid // 9) % 2 == 1,
        "disc": np.hypot(*(np.indices((200, 320)) - np.array([90, 170])[:, None, None])) < 60,
        "corner": grid == 0,
        "one": np.ones((1, 1), dtype=bool),
    }


def theirs() -> list[object]:
    found = []
    for name in ("label_studio_converter.brush", "label_studio_sdk.converter.brush"):
        try:
            found.append(__import__(name, fromlist=["brush"]))
        except ImportError:
            continue
    return found


@pytest.mark.parametrize("kind", drawn())
def test_there_and_back(kind: str) -> None:
    inside = drawn()[kind]
    packed = brush.encode(inside)
    assert all(isinstance(byte, int) and 0 <= byte < 256 for byte in packed)
    assert np.array_equal(brush.decode(packed, inside.shape), inside)
    coco = brush.coco(inside)
    assert coco == rle.encode(inside)
    mask = Mask((inside.shape[0], inside.shape[1]), str(coco["counts"]), int(inside.sum()), 1.0)
    assert np.array_equal(brush.pixels(mask), inside)
    if inside.any():
        x0, y0, x1, y1 = mask.box()
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert [x0, y0, x1, y1] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    else:
        assert mask.box() is None


@pytest.mark.skipif(not theirs(), reason="none of Label Studio's packages is installed")
@pytest.mark.parametrize("kind", drawn())
def test_label_studio_reads_and_writes_the_same(kind: str) -> None:
    inside = drawn()[kind]
    for package in theirs():
        seen = np.reshape(package.decode_rle(brush.encode(inside)), [*inside.shape, 4])
        assert np.array_equal(seen[..., 3], inside * np.uint8(255))
        assert np.array_equal(brush.decode(package.mask2rle(inside * np.uint8(255)), inside.shape), inside)


def test_what_is_damaged_is_refused() -> None:
    packed = brush.encode(drawn()["disc"])
    for wrong in ([], [300], packed[: len(packed) // 2], ["a"], packed[:6]):
        with pytest.raises(ValueError, match="brush region"):
            brush.decode(wrong, (200, 320))
    with pytest.raises(ValueError, match="pixels"):
        brush.decode(packed, (201, 320))
