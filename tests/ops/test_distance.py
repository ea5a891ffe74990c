"""The distance transform against brute force and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sam2core.ops.distance import distance_transform


def brute(mask):
    outside = np.argwhere(~mask)
    out = np.zeros(mask.shape)
    for y, x in np.argwhere(mask):
        out[y, x] = np.sqrt(((outside - (y, x)) ** 2).sum(1).min())
    return out


@pytest.mark.parametrize("density", [0.3, 0.9, 0.99])
def test_equals_the_nearest_false_pixel(density):
    mask = torch.rand(17, 23, generator=torch.Generator().manual_seed(3)) < density
    mask[5, 5] = False
    found = distance_transform(mask)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), brute(mask.numpy()), rtol=1e-6)
    np.testing.assert_allclose(found.numpy(), ndimage.distance_transform_edt(mask.numpy()), rtol=1e-6)


def test_batches_empty_and_full_masks():
    masks = torch.zeros(2, 2, 5, 7, dtype=torch.bool)
    masks[1, 1] = True
    masks[0, 1, 2, 3] = True
    found = distance_transform(masks)
    assert not found[0, 0].any() and found[0, 1].nonzero().tolist() == [[2, 3]]
    assert found[1, 1, 0, 0] == 1.0 and found[1, 1, 2, 3] == 3.0  # to a border of False pixels around the mask


def test_the_operator_traces():
    torch.library.opcheck(torch.ops.sam2core.distance_transform.default, (torch.rand(2, 5, 6) > 0.5,))
