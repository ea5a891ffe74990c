"""Connected regions against a flood fill and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sam2core.ops.regions import connected_components, holes, islands, largest, small_regions


def flood(mask):
    """Labels by flood fill over eight neighbours, in reading order from 1."""
    height, width = mask.shape
    labels, count = np.zeros((height, width), int), 0
    for start in zip(*np.nonzero(mask)):
        if labels[start]:
            continue
        count += 1
        stack = [start]
        while stack:
            y, x = stack.pop()
            if 0 <= y < height and 0 <= x < width and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


def same_regions(found, expected):
    """Equal up to the numbering."""
    pairs = {(int(a), int(b)) for a, b in zip(found.flatten(), expected.flatten())}
    return (
        len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and ((found > 0) == (expected > 0)).all()
    )


@pytest.mark.parametrize("density", [0.0, 0.1, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (13, 17)])
def test_labels_equal_a_flood_fill_over_eight_neighbours(density, size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size[0])) < density
    labels, areas = connected_components(mask)
    assert labels.dtype == areas.dtype == torch.int32 and labels.shape == areas.shape == mask.shape
    expected = flood(mask.numpy())
    assert same_regions(labels.numpy(), expected)
    for label in np.unique(expected[expected > 0]):
        assert (areas.numpy()[expected == label] == (expected == label).sum()).all()
    assert (areas[~mask] == 0).all() and (labels[~mask] == 0).all()


def test_masks_of_a_batch_do_not_meet_and_labels_stay_distinct():
    masks = torch.rand(2, 3, 20, 30) < 0.5
    labels, areas = connected_components(masks)
    seen = set()
    for mask, label, area in zip(masks.flatten(0, 1), labels.flatten(0, 1), areas.flatten(0, 1)):
        expected, count = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
        assert same_regions(label.numpy(), expected)
        own = set(label[mask].tolist())
        assert len(own) == count and not own & seen
        seen |= own
        sizes = np.bincount(expected.ravel(), minlength=count + 1)
        assert np.array_equal(area.numpy()[mask.numpy()], sizes[expected][mask.numpy()])


def test_no_masks_at_all():
    labels, areas = connected_components(torch.zeros(0, 4, 5, dtype=torch.bool))
    assert labels.shape == areas.shape == (0, 4, 5)


def test_small_regions_holes_islands_and_the_largest():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False  # a hole of one pixel
    mask[7, 7] = True  # an island that touches nothing
    logits = torch.where(mask, 2.0, -2.0)
    assert holes(logits, 1).nonzero().tolist() == [[3, 3]]
    assert not holes(logits, 0).any()
    assert islands(logits, 1).nonzero().tolist() == [[7, 7]]
    assert islands(logits, 24)[2, 2] and islands(logits, 23)[2, 2].logical_not()
    assert small_regions(mask, 1).nonzero().tolist() == [[7, 7]]
    kept = largest(torch.stack([mask, ~mask & False, mask]))
    assert torch.equal(kept[0], mask & ~small_regions(mask, 1)) and not kept[1].any()


def test_background_at_the_border_counts_as_a_hole():
    logits = torch.full((6, 6), 1.0)
    logits[0, 0] = 0.0
    assert holes(logits, 1).nonzero().tolist() == [[0, 0]]


def test_the_operator_traces():
    torch.library.opcheck(torch.ops.sam2core.connected_components.default, (torch.rand(2, 5, 6) > 0.5,))
