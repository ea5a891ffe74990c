"""Mask functions against loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sam2core.ops.masks import boxes, iou, non_overlapping, resize, stability_score


def test_resize_is_bilinear_without_antialiasing_in_fp32():
    logits = torch.randn(2, 3, 8, 8)
    expected = F.interpolate(logits, (5, 13), mode="bilinear", align_corners=False, antialias=False)
    assert torch.equal(resize(logits, (5, 13)), expected)
    assert resize(logits.bfloat16(), (5, 13)).dtype == torch.float32
    assert torch.equal(resize(logits, (8, 8)), logits)


def test_stability_counts_strictly_above_both_thresholds():
    logits = torch.tensor([[0.06, 0.05, 0.0, -0.05, -0.06]]).unsqueeze(0)
    assert stability_score(logits, 0.05).item() == pytest.approx(1 / 3)
    assert stability_score(torch.full((1, 4, 4), -9.0), 0.05).item() == 1.0
    apart = torch.tensor([[1.5, 1.0, 0.5, 0.2]]).unsqueeze(0)
    assert stability_score(apart, 0.25, threshold=1.0).item() == 0.5


def test_iou_of_boolean_masks():
    a, b = torch.rand(4, 9, 9) > 0.5, torch.rand(4, 9, 9) > 0.5
    a[3], b[3] = False, False
    expected = [((x & y).sum() / (x | y).sum()).item() if (x | y).any() else 1.0 for x, y in zip(a, b)]
    torch.testing.assert_close(iou(a, b), torch.tensor(expected))


def test_boxes_are_tight_and_inclusive():
    masks = torch.zeros(2, 2, 6, 9, dtype=torch.bool)
    masks[0, 0, 2:4, 3:8] = True
    masks[1, 1, 5, 0] = True
    assert boxes(masks).tolist() == [[[3, 2, 7, 3], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 5, 0, 5]]]


def test_exclusive_leaves_every_pixel_to_its_strongest_object():
    logits = torch.randn(3, 5, 6) * 20
    found = non_overlapping(logits)
    for y in range(5):
        for x in range(6):
            owner = int(logits[:, y, x].argmax())
            for index in range(3):
                expected = logits[index, y, x] if index == owner else min(logits[index, y, x], torch.tensor(-10.0))
                assert found[index, y, x] == expected
    alone = torch.randn(1, 5, 6)
    assert torch.equal(non_overlapping(alone), alone)
