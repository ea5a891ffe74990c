"""Simulated clicks, baselines and samples."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam2core.evaluation.baselines import ConstantDisc, FloodFill, to_lab
from sam2core.evaluation.clicks import (
    Click,
    Sample,
    first_click,
    folder_samples,
    follow,
    next_click,
    regions_of,
)
from sam2core.evaluation.metrics import iou, summarise


def square(top: int, left: int, side: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_the_first_click_is_the_middle():
    assert first_click(square(10, 4, 9)) == Click(8, 14)
    with pytest.raises(ValueError, match="no first click"):
        first_click(np.zeros((4, 4), dtype=bool))


def test_the_border_counts_as_edge():
    assert first_click(square(0, 0, 9)) == Click(4, 4)


def test_the_next_click_is_the_middle_of_the_largest_error():
    truth = square(10, 10, 15)
    assert next_click(truth, truth) is None
    missing = truth & ~square(10, 10, 7)
    assert next_click(missing, truth) == Click(13, 13, positive=True)
    assert next_click(truth | square(28, 28, 9), truth) == Click(32, 32, positive=False)
    assert next_click(truth & ~square(10, 10, 3) | square(28, 28, 9), truth) == Click(32, 32, positive=False)


def test_every_method_is_followed_by_clicks_on_its_own_errors():
    truth = square(10, 10, 12)
    seen: list[list[Click]] = []

    class Slow:
        def encode(self, image):
            def answer(clicks, state):
                seen.append(list(clicks))
                return (square(10, 10, 6), "first") if state is None else (truth, "second")

            return answer

    sample = Sample(np.zeros((40, 40, 3), np.uint8), truth[None], "a")
    assert follow(Slow(), sample, clicks=4) == [[0.25, 1.0, 1.0, 1.0]]
    assert [len(clicks) for clicks in seen] == [1, 2]  # nothing to correct after the second
    assert seen[1][1].positive and truth[seen[1][1].y, seen[1][1].x]


def test_the_constant_disc_ignores_the_picture():
    answer = ConstantDisc(0.25).encode(np.zeros((40, 60, 3), np.uint8))
    mask, _ = answer([Click(30, 20)], None)
    assert mask.sum() == (np.hypot(*np.mgrid[-20:20, -30:30]) <= 10).sum()
    mask, _ = answer([Click(30, 20), Click(30, 20, positive=False)], None)
    assert not mask.any()


def test_flood_fill_stops_at_colour_and_takes_what_is_connected():
    image = np.full((40, 40, 3), 200, np.uint8)
    image[square(5, 5, 12)] = (200, 30, 30)
    image[square(25, 25, 10)] = (200, 30, 30)
    mask, _ = FloodFill(10).encode(image)([Click(11, 11)], None)
    assert iou(mask, square(5, 5, 12)) > 0.65 and not mask[30, 30]  # smoothing takes a pixel off the edge
    mask, _ = FloodFill(10).encode(image)([Click(2, 2)], None)
    assert mask[0, 39] and not mask[11, 11]


def test_lab_of_known_colours():
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8)
    lab = to_lab(np.repeat(np.repeat(colours[:, None, None], 9, 1), 9, 2).reshape(27, 9, 3)[:, :, :])
    for row, wanted in zip((4, 13, 22), ((100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20))):
        assert lab[row, 4] == pytest.approx(wanted, abs=0.05)


def test_regions_are_chosen_by_area():
    labels = np.zeros((40, 40), np.uint8)  # 0: 1600 - 400 - 4 - ... pixels
    labels[square(0, 0, 20)] = 1
    labels[square(30, 30, 2)] = 2
    masks = regions_of(labels, generator=np.random.default_rng(0))
    assert [int(mask.sum()) for mask in masks] == [400]  # 0 covers more than 60 %, 2 less than 0.5 %
    masks = regions_of(labels, largest=0.9, generator=np.random.default_rng(0))
    assert sorted(int(mask.sum()) for mask in masks) == [400, 1196]
    assert len(regions_of(labels, largest=0.9, most=1, generator=np.random.default_rng(0))) == 1
    assert len(regions_of(labels, largest=0.9, background=False, generator=np.random.default_rng(0))) == 1


def test_folders_with_several_annotators(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="images/ and labels/"):
        list(folder_samples(tmp_path))
    (tmp_path / "labels").mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    with pytest.raises(ValueError, match="has no labels/0.png"):
        list(folder_samples(tmp_path))
    for number in range(3):
        for annotator, side in enumerate((10, 20)):
            labels = square(5, 5, side).astype(np.uint8)
            Image.fromarray(labels).save(tmp_path / "labels" / f"{number}_{annotator}.png")
    samples = list(folder_samples(tmp_path, background=False))
    assert [sample.name for sample in samples] == ["0.png", "1.png", "2.png"]
    assert [sample.name for sample in folder_samples(tmp_path, last=1)] == ["2.png"]
    assert not list(folder_samples(tmp_path, background=False, smallest=0.3))
    assert not list(folder_samples(tmp_path, background=False, smallest=0.0, largest=0.05))
    again = list(folder_samples(tmp_path, background=False))
    assert all((a.masks == b.masks).all() for a, b in zip(samples, again))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "labels" / "0.png")
    with pytest.raises(ValueError, match=r"is \(8, 8\)"):
        list(folder_samples(tmp_path))


def test_iou_and_its_summary():
    assert iou(square(0, 0, 4), square(0, 0, 4)) == 1.0
    assert iou(square(0, 0, 2), square(0, 0, 4)) == 0.25
    assert iou(square(0, 0, 0), square(0, 0, 0)) == 1.0
    with pytest.raises(ValueError, match="one size"):
        iou(np.zeros((2, 2), bool), np.zeros((3, 2), bool))
    summary = summarise([[0.2, 0.4], [0.9], []])
    assert summary.mean == pytest.approx(0.5) and (summary.objects, summary.images) == (3, 2)
    assert summary.low == pytest.approx(0.3) and summary.high == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no object"):
        summarise([[]])
