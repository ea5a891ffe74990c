"""Windows: cutting and merging are inverse, and the padding is zero, below and right."""

from __future__ import annotations

import pytest
import torch

from sam2core.ops.windows import merge, partition


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9), (1, 3), (64, 64)])
@pytest.mark.parametrize("window", [1, 2, 4, 14])
def test_merge_is_the_inverse_of_partition(size, window):
    maps = torch.randn(2, *size, 3)
    windows, padded = partition(maps, window)
    assert windows.shape[1:] == (window, window, 3)
    assert all(side % window == 0 and side >= original for side, original in zip(padded, size))
    assert torch.equal(merge(windows, padded, size), maps)


def test_windows_come_in_row_order_batch_first():
    maps = torch.arange(2 * 4 * 4.0).view(2, 4, 4, 1)
    windows, _ = partition(maps, 2)
    assert windows[1].flatten().tolist() == [2, 3, 6, 7]
    assert windows[4].flatten().tolist() == [16, 17, 20, 21]


def test_padding_is_zero_below_and_right():
    windows, padded = partition(torch.ones(1, 3, 3, 1), 2)
    assert padded == (4, 4)
    assert windows[3].flatten().tolist() == [1, 0, 0, 0]
