"""Detectors: what is found is told apart from what is followed already."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam2core.jobs.detectors import Newcomers, detections, prompts_of


class Fixed:
    """Finds the same boxes everywhere."""

    def __init__(self, boxes, labels, scores):
        self.found = detections(boxes, labels, scores)

    def detect(self, picture, *, source, frame):
        return self.found


def test_new_ones_join_and_known_ones_stay():
    boxes = [[0, 0, 10, 10], [20, 20, 40, 40], [21, 20, 40, 40], [90, 90, 99, 99], [-5, 30, 10, 50]]
    detector = Fixed(boxes, ["a", "b", "c", "out", "d"], [0.5, 0.4, 0.9, 1.0, 0.3])
    known = torch.zeros(60, 80, dtype=torch.bool)
    known[0:10, 1:11] = True  # box IoU 9/11 with the first
    told = []
    find = Newcomers(
        detector, "clip", lambda frame: np.zeros((60, 80, 3), np.uint8), int, {"1": "a"}, joined=lambda: told.append(1)
    )
    assert find(0, [known]) == [{"box": [21, 20, 40, 40]}, {"box": [0, 30, 10, 50]}]
    assert find.categories == {"1": "a", "2": "c", "3": "d"} and told == [1]
    find.same = 0.9
    assert len(find(0, [known])) == 3  # the known one is another now, and what lies outside stays out
    find.most = 6
    assert find(0, []) == [] and len(find.categories) == 6


def test_boxes_of_a_picture_lie_within_it():
    detector = Fixed([[-5, -5, 10, 10], [200, 0, 300, 10]], ["a", "b"], [0.5, 0.9])
    (one,) = prompts_of(detector, np.zeros((60, 80, 3), np.uint8), "a.png")
    assert one.box == [0, 0, 10, 10] and one.category == "a" and one.score == 0.5
    with pytest.raises(ValueError, match="1 boxes, 2 labels"):
        detections([[0, 0, 1, 1]], ["a", "b"], [1.0])
