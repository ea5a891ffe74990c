"""Small regions by pooling against SciPy's labels: thousands of masks, awkward shapes, and as the kernel of a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sam2core.ops import regions
from sam2core.ops.cuda.regions import LARGEST, pooled_regions, small_regions_on_cuda


def random_masks(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Noise of many densities, where regions of every size up to the whole mask occur."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.random((count, *size)) < random.uniform(0.02, 0.9, (count, 1, 1)))


@pytest.mark.parametrize("area", [1, 2, 5, 8, LARGEST])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 1), (9, 14), (32, 27)], ids=str)
def test_random_masks(area, size):
    masks = random_masks(300, size, seed=area)
    assert torch.equal(pooled_regions(masks, area), regions.small_regions.plain(masks, area))


def lines(length: int) -> list[np.ndarray]:
    """Regions one pixel wide of so many pixels: names travel the longest way along them."""
    straight = np.zeros((3, length + 2), bool)
    straight[1, 1:-1] = True
    steps = np.eye(length + 2, dtype=bool)
    steps[0, 0] = steps[-1, -1] = False
    return [straight, straight.T, straight[:, ::-1], steps, steps[::-1]]


@pytest.mark.parametrize("length", range(1, 20))
def test_lines_of_every_length(length):
    for line in lines(length):
        mask = torch.from_numpy(np.ascontiguousarray(line))
        assert pooled_regions(mask, 8).any() == (length <= 8)
        assert torch.equal(pooled_regions(mask, length), mask) and not pooled_regions(mask, length - 1).any()


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6), (2, 3, 5, 6), (0, 5, 6)])
def test_any_leading_dimensions(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(small_regions_on_cuda(mask, 4), regions.small_regions.plain(mask, 4))


def test_what_pooling_is_not_for_is_labelled(monkeypatch):
    mask = random_masks(1, (30, 30), seed=0)
    asked = []
    label = regions.connected_components.kernel(mask) or regions._components
    monkeypatch.setitem(
        regions.connected_components._kernels, ("cpu", None), lambda mask: (asked.append(1), label(mask))[1]
    )
    large = small_regions_on_cuda(mask, LARGEST + 1)
    assert asked == [1]
    expected = np.zeros((30, 30), bool)
    labels, count = ndimage.label(mask[0].numpy(), np.ones((3, 3)))
    for label_ in range(1, count + 1):
        expected |= (labels == label_) & ((labels == label_).sum() <= LARGEST + 1)
    assert np.array_equal(large[0].numpy(), expected)
    small_regions_on_cuda(mask, 8)  # one that labels on the device is quicker than pooling
    assert asked == [1, 1]
