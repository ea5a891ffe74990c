"""Polygons are filled as COCO's tools fill them, and traced so that filling gives the mask back."""

from __future__ import annotations

import numpy as np
import pytest

from sam2core.ops.polygons import as_one_ring, fill_ring, fill_rings, is_degenerate, trace


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def test_areas_are_those_of_pycocotools():
    for corners, area in (((10, 10, 20, 20), 100), ((10, 10, 13, 13), 9), ((10, 10, 40, 11), 30)):
        mask = fill_ring(rectangle(*corners), (60, 80))
        x0, y0, x1, y1 = corners
        assert mask.sum() == area and mask[y0:y1, x0:x1].all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_polygon_is_filled_as_pycocotools_does():
    coco = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for number in range(400):
        height, width = (int(side) for side in generator.integers(1, 60, 2))
        values = generator.uniform(-5, 65, 2 * int(generator.integers(3, 12)))
        ring = values if number % 2 else np.round(values)
        wanted = coco.decode(coco.frPyObjects([ring.tolist()], height, width))[..., 0].astype(bool)
        assert (fill_ring(ring, (height, width)) == wanted).all()


def test_rings_are_filled_one_by_one():
    both = fill_rings([rectangle(2, 2, 6, 6), rectangle(4, 4, 8, 8)], (10, 10))
    assert both.sum() == 16 + 16 - 4 and both[5, 5]


def test_what_has_no_inside_is_empty_and_what_is_damaged_is_told():
    for ring in ([1, 1, 5, 5], [1, 1, 3, 3, 5, 5], [1, 1, 1, 1, 1, 1]):
        assert is_degenerate(ring) and not fill_ring(ring, (8, 8)).any()
    assert not is_degenerate(rectangle(0, 0, 1, 1))
    with pytest.raises(ValueError, match="an even number of finite values, not 7"):
        fill_ring([1, 1, 2, 2, 3, 3, 4], (8, 8))
    with pytest.raises(ValueError, match="finite"):
        fill_ring([1, 1, float("nan"), 2, 3, 3], (8, 8))


def test_tracing_and_filling_give_the_mask_back():
    generator = np.random.default_rng(0)
    for _ in range(60):
        mask = generator.random(generator.integers(1, 30, 2)) < generator.uniform(0.05, 0.95)
        outer, holes = trace(mask)
        assert not (mask & ~fill_rings(outer, mask.shape)).any() and (
            holes or (fill_rings(outer, mask.shape) == mask).all()
        )
        assert (fill_ring(as_one_ring(outer, holes), mask.shape) == mask).all()


def test_pieces_that_touch_at_a_corner_are_apart():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True
    outer, holes = trace(mask)
    assert sorted(len(ring) for ring in outer) == [4, 4] and not holes
