"""The methods a model must beat: on images whose answer is plain."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sam2core.evaluation.baselines import CopyFirstMask, FlowWarp, GrabCut, NearestFeatures, RandomWalker, Scaled
from sam2core.evaluation.clicks import Click, box_of, click_through, coco_samples, replay
from sam2core.evaluation.metrics import clicks_needed, course, iou, terciles


@pytest.fixture(scope="module")
def picture():
    """A textured square on another texture, and its mask."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 12, (80, 100, 3), dtype=np.uint8)
    truth = np.zeros((80, 100), dtype=bool)
    truth[20:60, 25:70] = True
    image[truth] += np.array([150, 40, 20], dtype=np.uint8)
    return image, truth


def test_grabcut(picture):
    pytest.importorskip("cv2")
    image, truth = picture
    answers = GrabCut().encode(image)
    mask, _ = answers([Click(47, 40)], None)
    assert iou(mask, truth) > 0.95
    again, _ = answers([Click(47, 40)], None)
    assert (mask == again).all()  # its k-means is seeded
    assert iou(GrabCut().box(image, (20, 15, 75, 66)), truth) > 0.95
    assert iou(GrabCut(side=50).box(image, (20, 15, 75, 66)), truth) > 0.85
    assert GrabCut().box(image, (0, 0, 100, 80)).all()
    assert not answers([Click(47, 40), Click(47, 40, positive=False)], None)[0][38:43, 45:50].any()


def test_random_walker(picture):
    pytest.importorskip("skimage")
    image, truth = picture
    answers = RandomWalker().encode(image)
    assert iou(answers([Click(47, 40)], None)[0], truth) > 0.75
    assert not answers([Click(47, 40), Click(47, 40, positive=False)], None)[0].any()
    half = answers([Click(47, 40), Click(60, 40, positive=False)], None)[0]
    assert half[40, 30] and not half[40, 60]


def test_clicks_and_masks_find_back_to_full_size():
    scaled = Scaled(np.zeros((100, 200, 3), np.uint8), 50)
    assert scaled.size == (25, 50) and scaled.click(Click(199, 99, False)) == Click(49, 24, False)
    assert scaled.back(np.ones((25, 50))).shape == (100, 200)
    assert Scaled(np.zeros((10, 20, 3), np.uint8), 50).scale == 1.0


def test_masks_that_are_copied_or_flow():
    pytest.importorskip("cv2")
    generator = np.random.default_rng(1)
    wide = np.kron(generator.integers(0, 255, (20, 40), dtype=np.uint8), np.ones((6, 6), np.uint8))
    frames = [np.repeat(wide[:, 3 * step : 3 * step + 150, None], 3, axis=2) for step in range(4)]
    truth = np.zeros((120, 240), dtype=bool)
    truth[40:80, 60:110] = True
    first = {7: truth[:, :150]}
    assert all((masks[7] == first[7]).all() for masks in CopyFirstMask().follow(frames, first))
    flowing = list(FlowWarp().follow(frames, first))
    assert len(flowing) == 4 and (flowing[0][7] == first[7]).all()
    assert iou(flowing[3][7], truth[:, 9:159]) > 0.9 > iou(first[7], truth[:, 9:159])


def test_the_same_clicks_for_all(picture):
    _, truth = picture

    def growing(clicks, state):
        mask = np.zeros_like(truth)
        mask[20:60, 25 : 25 + 15 * len(clicks)] = True
        return mask, None

    found = click_through(growing, truth, clicks=5)
    assert found.scores == (1 / 3, 2 / 3, 1.0, 1.0, 1.0) and len(found.clicks) == 3 and found.seconds > 0
    assert replay(growing, truth, found.clicks, (1, 3, 8)) == [1 / 3, 1.0, 1.0]
    assert clicks_needed(found.scores, 0.8) == 3 and clicks_needed(found.scores[:2], 0.8) is None
    assert box_of(truth) == (25, 20, 70, 60)
    with pytest.raises(ValueError, match="no box"):
        box_of(np.zeros((3, 3), bool))


def test_thirds_and_courses():
    assert terciles([5, 1, 9, 2, 8, 3]) == [1, 0, 2, 0, 2, 1] and terciles([]) == []
    assert terciles([4, 4, 4]) == [0, 0, 0]
    found = course([1.0, 1.0, 0.5, 0.0, 0.0])
    assert (found.mean, found.recall, found.decay) == (0.5, 0.4, 1.0)
    with pytest.raises(ValueError, match="no frame"):
        course([])


def test_coco_panoptic(tmp_path):
    with pytest.raises(ValueError, match="no panoptic annotations at"):
        list(coco_samples(tmp_path))
    annotations = tmp_path / "panoptic_segmentation" / "annotations"
    drawn = annotations / "panoptic_val2017"
    drawn.mkdir(parents=True)
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "images" / "val2017" / "7.jpg")
    ids = np.zeros((40, 40, 3), np.uint8)
    ids[:10, :10], ids[20:30, 20:30], ids[35:, 35:] = (4, 1, 0), (9, 0, 0), (0, 0, 1)
    Image.fromarray(ids).save(drawn / "7.png")
    segments = [{"id": 260, "iscrowd": 0}, {"id": 9, "iscrowd": 1}, {"id": 65536, "iscrowd": 0}]
    listing = {
        "images": [{"id": 1, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "7.png", "segments_info": segments}],
    }
    (annotations / "panoptic_val2017.json").write_text(json.dumps(listing))
    (sample,) = coco_samples(tmp_path)
    assert sample.name == "7.jpg" and sorted(int(mask.sum()) for mask in sample.masks) == [25, 100]
    assert len(next(iter(coco_samples(tmp_path, most=1))).masks) == 1


def test_nearest_features_give_a_place_to_what_its_feature_is_like():
    def encoded(side: torch.Tensor) -> SimpleNamespace:
        """An image of 40 x 80 whose embedding (1, 2, 4, 8) has one direction on `side`, another off it."""
        embedding = torch.stack([side.float(), (~side).float()])[None] * 3 + 0.1
        return SimpleNamespace(size=(40, 80), unconditioned=lambda: SimpleNamespace(embedding=embedding))

    left = torch.zeros(4, 8, dtype=torch.bool)
    left[:, :4] = True
    mask = np.zeros((40, 80), dtype=bool)
    mask[:, :40] = True
    nearest = NearestFeatures()
    with pytest.raises(ValueError, match="no image was remembered"):
        nearest.find(encoded(left))
    nearest.remember(encoded(left), mask)
    assert iou(nearest.find(encoded(left)), mask) == 1.0
    assert iou(nearest.find(encoded(~left)), ~mask) == 1.0
