"""MaskGenerator on its own: options, records, progress, empty answers, batches, precision; and what is built on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam2core import registry
from sam2core.ops import masks as mask_ops
from sam2core.ops import rle
from sam2core.predictors.automask import AutoMask, MaskGenerator
from sam2core.predictors.crops import crops, point_grid
from sam2core.predictors.everything import newcomers, track_everything

COFFEE = Path(registry.__file__).parent / "samples" / "coffee.jpg"
LOOSE = {"points_per_side": 3, "iou_threshold": 0, "stability_threshold": 0, "nms_threshold": 1.0}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return registry.build("test_tiny", weights=False, image_size=64)


def picture(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(x, y, radius, size=(40, 60), **facts):
    yy, xx = np.mgrid[: size[0], : size[1]]
    inside = (xx - x) ** 2 + (yy - y) ** 2 < radius**2
    box = tuple(mask_ops.boxes(torch.from_numpy(inside)).tolist())
    facts = {"iou": 0.9, "stability": 1.0, "point": (x, y), "crop": (0, 0, size[1], size[0]), **facts}
    return AutoMask(size=size, runs=rle.runs(inside), box=box, **facts)


def test_a_mask_and_its_records():
    mask = disc(20.0, 15.0, 6)
    assert mask.mask.dtype == bool and mask.area == mask.mask.sum()
    assert np.array_equal(rle.decode(mask.coco), mask.mask)
    records = {form: mask.record(form) for form in ("binary_mask", "coco_rle", "uncompressed_rle")}
    for record in records.values():
        assert record["bbox"] == [15.0, 10.0, 10.0, 10.0] and record["crop_box"] == [0, 0, 60, 40]
        assert record["point_coords"] == [[20.0, 15.0]] and record["area"] == mask.area
    assert np.array_equal(rle.decode(records["uncompressed_rle"]["segmentation"]), mask.mask)
    assert records["coco_rle"]["segmentation"] == rle.encode(mask.mask)
    with pytest.raises(ValueError, match="binary_mask, coco_rle"):
        mask.record("png")


def test_batches_of_clicks_and_of_pictures_change_nothing(model):
    pictures = [picture(), picture(33, 80, 1)]
    one_by_one = [MaskGenerator(model, **LOOSE).generate(image) for image in pictures]
    together = MaskGenerator(model, points_per_batch=2, **LOOSE).generate(pictures)
    assert [len(found) for found in together] == [len(found) for found in one_by_one] == [27, 27]
    for found, expected in zip(together, one_by_one):
        for a, b in zip(found, expected):
            assert a.size == b.size and a.point == b.point and mask_iou(a, b) > 0.999


def test_the_chain_of_cleaning_knows_the_click_of_every_mask(model):
    loose = {"iou_threshold": 0.0, "nms_threshold": 1.0, "points_per_side": 3}
    plain, kept = (
        MaskGenerator(model, stability_threshold=0.0, cleaning=steps, **loose).generate(picture())
        for steps in (None, {"keep_clicked": True})
    )
    assert sum(one.mask.sum() for one in kept) < sum(one.mask.sum() for one in plain)
    wholes = {(one.point, one.iou): one.mask for one in plain}
    assert len(wholes) == len(plain) and all((one.mask <= wholes[one.point, one.iou]).all() for one in kept)


def mask_iou(a, b):
    return float(mask_ops.iou(torch.from_numpy(a.mask), torch.from_numpy(b.mask)))


def test_results_come_one_by_one_and_progress_counts_clicks(model):
    steps, asked = [], []

    def pictures():
        for index in range(2):
            asked.append(index)
            yield picture(seed=index)

    stream = MaskGenerator(model, points_per_batch=4, **LOOSE).stream(pictures(), progress=lambda *at: steps.append(at))
    assert next(stream) and asked == [0] and steps == [(4, 9), (8, 9), (9, 9)]
    assert next(stream) and steps[-1] == (18, 18)
    steps.clear()
    MaskGenerator(model, crop_layers=1, **LOOSE).generate([picture()] * 2, progress=lambda *at: steps.append(at))
    assert steps[-1] == (90, 90) and steps[0][1] == 90


def test_nothing_found_is_an_empty_list(model):
    strict = LOOSE | {"iou_threshold": 1.0}
    for options in ({}, {"crop_layers": 1}, {"refine": True}, {"multimask_output": False}, {"min_region_area": 9}):
        assert MaskGenerator(model, **(strict | options)).generate(picture()) == []


def test_half_precision_and_any_picture(model):
    half = registry.build("test_tiny", weights=False, image_size=64, dtype="bfloat16")
    found = MaskGenerator(half, **LOOSE).generate(picture())
    assert len(found) == 27 and all(np.isfinite(mask.iou) for mask in found)
    found = MaskGenerator(model, **LOOSE).generate(torch.rand(3, 20, 30))
    assert found[0].mask.shape == (20, 30)


def test_the_embedded_models_masks_hardly_differ_in_bfloat16():
    """Its weights are bfloat16 numbers, so what differs comes from what they are multiplied with alone."""
    state = registry.build("sam2core_nano").state_dict()
    assert all(torch.equal(value, value.bfloat16().float()) for value in state.values())
    found = {}
    for dtype in ("float32", "bfloat16"):
        generator = registry.predictor("sam2core_nano", "automask", dtype=dtype, points_per_side=8)
        found[dtype] = generator.generate(COFFEE)
    best = np.array([max(mask_iou(a, b) for b in found["bfloat16"]) for a in found["float32"]])
    assert len(best) > 10 and (best > 0.7).mean() > 0.9  # one whose score lies at a threshold may come or go
    assert best[best > 0.7].mean() > 0.99


def test_small_regions_are_cleaned_at_the_pictures_size(model):
    found = MaskGenerator(model, min_region_area=30, **LOOSE).generate(picture())
    from scipy import ndimage

    assert found
    for mask in found:
        for inside in (mask.mask, ~mask.mask):
            _, count = ndimage.label(inside, np.ones((3, 3)))
            if inside is mask.mask and count > 1:
                sizes = np.bincount(ndimage.label(inside, np.ones((3, 3)))[0].ravel())[1:]
                assert sizes.min() >= 30
        y, x = np.nonzero(mask.mask)
        assert mask.box == (x.min(), y.min(), x.max(), y.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "one of them"),
        ({"point_grids": [np.zeros((1, 2))]}, "one of them"),
        ({"points_per_side": 0}, "1 or more"),
        ({"points_per_batch": 0}, '"auto"'),
        ({"points_per_batch": "many"}, '"auto"'),
        ({"crop_layers": -1}, "crop_layers"),
        ({"points_per_side": 2, "crop_layers": 2, "crop_points_downscale": 2}, "without points"),
        ({"crop_overlap": 1.0}, "share of the shorter side"),
        ({"min_region_area": -1}, "area in pixels"),
        ({"points_per_side": None, "point_grids": [np.array([[0.5, 1.5]])]}, r"lies in \[0, 1\]"),
        ({"points_per_side": None, "point_grids": [np.zeros((2, 3))]}, r"\(N, 2\)"),
        ({"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_layers": 1}, "need 2 point grids"),
    ],
)
def test_options_that_make_no_sense(model, options, message):
    with pytest.raises(ValueError, match=message):
        MaskGenerator(model, **options)


def test_the_registry_makes_it_with_the_specs_defaults():
    generator = registry.predictor("sam2core_nano", "automask", points_per_side=2)
    assert generator.mask_threshold == 0.3 and len(generator.grids[0]) == 4


def test_grids_and_crops():
    assert np.allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    found = crops((60, 100), 1, 0.5)
    assert found[0] == ((0, 0, 100, 60), 0) and len(found) == 5
    assert {crop for crop, layer in found if layer} == {
        (0, 0, 65, 45), (0, 15, 65, 60), (35, 0, 100, 45), (35, 15, 100, 60)
    }  # fmt: skip


class TestEverything:
    """A tracker that is never wrong, so that only what starts an object can be."""

    class Session:
        def __init__(self, frames):
            self.source = SimpleNamespace(__getitem__=None)
            self.frames = frames  # per frame: the masks of all that is there, by name
            self.source = self
            self.size, self.length = (40, 60), len(frames)
            self.tracks, self.prompts = {}, []

        def __getitem__(self, frame):
            return frame

        def has(self, frame):
            return frame < len(self.frames)

        def result(self, frame):
            there = {id: self.frames[frame].get(name) for id, name in self.tracks.items()}
            masks = {id: torch.zeros(self.size, dtype=torch.bool) if m is None else torch.from_numpy(m.mask)
                     for id, m in there.items()}  # fmt: skip
            return SimpleNamespace(frame=frame, objects=tuple(self.tracks), masks=masks)

        def propagate(self, start, stop):
            assert stop == start + 1
            yield self.result(start)

        def prompt(self, frame, object, mask):
            (name,) = [name for name, there in self.frames[frame].items() if np.array_equal(there.mask, mask)]
            assert name not in self.tracks.values(), "an object was started twice"
            self.tracks[object] = name
            self.prompts.append((frame, object, name))
            return self.result(frame)

    def scene(self):
        """Two things from the start, a third from frame 5 on, of which a half is found as well."""
        frames = []
        for frame in range(12):
            there = {"left": disc(10.0 + frame, 10.0, 6), "right": disc(50.0 - frame, 30.0, 5, iou=0.8)}
            if frame >= 5:
                there["late"] = disc(30.0, 20.0, 7, iou=0.7)
            frames.append(there)
        return frames

    def generator(self, frames):
        def generate(frame):
            part = [disc(30.0, 22.0, 4, iou=0.6)] if frame >= 5 else []
            return [*frames[frame].values(), *part, disc(3.0, 37.0, 1)]

        return SimpleNamespace(generate=generate)

    def test_newcomers_join_later_and_nothing_is_started_twice(self):
        frames = self.scene()
        session = self.Session(frames)
        steps = []
        results = list(
            track_everything(
                session,
                self.generator(frames),
                every=4,
                min_area=0.005,
                progress=lambda *step: steps.append(step),
            )
        )
        assert session.prompts == [(0, 1, "left"), (0, 2, "right"), (8, 3, "late")]
        assert [result.frame for result in results] == list(range(12)) and steps[-1] == (12, 12)
        assert results[7].objects == (1, 2) and results[8].objects == (1, 2, 3)

    def test_limits(self):
        frames = self.scene()
        session = self.Session(frames)
        assert len(list(track_everything(session, self.generator(frames), every=1, stop=3, max_objects=1))) == 3
        assert list(session.tracks) == [1]
        for options in ({"every": 0}, {"max_objects": 0}, {"same": 2.0}, {"covered": -1}):
            with pytest.raises(ValueError):
                next(track_everything(session, self.generator(frames), **options))
        session.source = None
        with pytest.raises(ValueError, match="live"):
            next(track_everything(session, self.generator(frames)))

    def test_objects_of_the_user_keep_their_ids_and_short_iterators_end(self, model):
        from sam2core.predictors.video import VideoPredictor

        predictor = VideoPredictor(model)
        session = predictor.open(iter([picture(seed=index) for index in range(3)]))
        mask = np.zeros((50, 70), bool)
        mask[5:20, 5:20] = True
        session.prompt(0, np.int64(1), mask=mask)
        results = list(track_everything(session, MaskGenerator(model, **LOOSE), stop=9, covered=1.0, same=1.0))
        assert [result.frame for result in results] == [0, 1, 2]
        assert results[0].objects[:2] == (1, 2)
        assert results[0].masks[1][8:17, 8:17].all() and not results[0].masks[1][25:].any(), "object 1 is the user's"
        with pytest.raises(ValueError, match="stop"):
            next(track_everything(session, MaskGenerator(model, **LOOSE), stop=-1))

    def test_newcomers(self):
        found = [
            disc(20, 20, 8, iou=0.5),
            disc(20, 20, 9, iou=0.9),
            disc(21, 20, 3, iou=0.95),
            disc(45, 20, 8, iou=0.6),
        ]
        known = [torch.from_numpy(disc(46, 20, 8).mask)]
        chosen = newcomers(found, known, same=0.5, covered=0.7)
        assert [mask.sum() for mask in chosen] == [found[2].area, found[1].area]

    def test_a_real_session(self, model):
        from sam2core.predictors.video import VideoPredictor

        session = VideoPredictor(model).open([picture(seed=index) for index in range(4)])
        results = list(track_everything(session, MaskGenerator(model, **LOOSE), every=2, max_objects=3))
        assert len(results) == 4 and results[-1].objects and set(results[0].objects) <= set(results[-1].objects)
        assert all(mask.shape == (50, 70) for mask in results[-1].masks.values())


def test_nms_of_a_worked_case():
    boxes = np.array(
        [
            (0, 0, 10, 10),  # the best
            (0, 0, 10, 5),  # shares 50 of 100 with the best: IoU 0.5
            (0, 0, 10, 8),  # 80 of 100: IoU 0.8
            (0, 4, 10, 12),  # 60 of 120: IoU 0.5 with the best, 40 of 120 with the one above, 10 of 120 with the second
            (20, 20, 20, 20),  # without area, twice: neither removes the other
            (20, 20, 20, 20),
            (30, 30, 40, 40),  # twice the same with the same score: the first of them stays
            (30, 30, 40, 40),
        ]
    )
    scores = np.array([0.9, 0.5, 0.8, 0.6, 0.1, 0.1, 0.7, 0.7])
    assert mask_ops.nms(boxes, scores, 0.4).tolist() == [0, 6, 4, 5]
    assert mask_ops.nms(boxes, scores, 0.5).tolist() == [0, 6, 3, 1, 4, 5]  # an overlap of exactly the threshold stays
    assert mask_ops.nms(boxes, scores, 0.8 - 1e-3).tolist() == [0, 6, 3, 1, 4, 5]
    assert mask_ops.nms(boxes, scores, 1.0).tolist() == [0, 2, 6, 7, 3, 1, 4, 5]
    assert len(mask_ops.nms(np.zeros((0, 4)), np.zeros(0), 0.5)) == 0


def test_runs_of_a_part_are_those_of_the_whole():
    generator = np.random.default_rng(0)
    for height, width, x, y, h, w in ((9, 7, 2, 3, 4, 3), (5, 6, 0, 0, 5, 6), (5, 6, 1, 0, 5, 4), (4, 4, 3, 3, 1, 1)):
        for share in (0.0, 0.5, 1.0):
            part = generator.random((h, w)) < share
            whole = np.zeros((height, width), bool)
            whole[y : y + h, x : x + w] = part
            assert rle.runs_within(part, (x, y), (height, width)).tolist() == rle.runs(whole).tolist()
            parts = [(part[:, :1], (x, y)), (part[:, 1:], (x + 1, y))]
            assert rle.runs_of_parts(parts, (height, width)).tolist() == rle.runs(whole).tolist()


@pytest.mark.parametrize("size", [(50, 70), (37, 11), (9, 12), (24, 48)])
def test_a_window_of_the_resized_logits(size):
    logits = torch.randn(12, 16)
    whole = mask_ops.resize(logits[None, None], size)[0, 0]
    for window in ((0, 0, size[1], size[0]), (3, 2, 9, 8), (size[1] - 1, size[0] - 1, size[1], size[0])):
        x0, y0, x1, y1 = window
        found = mask_ops.resize_window(logits, size, window)
        torch.testing.assert_close(found, whole[y0:y1, x0:x1], atol=1e-5, rtol=1e-5)
