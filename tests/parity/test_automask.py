"""Automatic masks live against upstream's generator: same count, same masks, same order, same fields."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from sam2core.predictors.automask import MaskGenerator
from tests.parity import oracle
from tests.parity.test_image_predictor import picture

pytest.importorskip("sam2", reason="upstream is the reference: pip install sam2==1.1.0")

WORDS = {
    "points_per_side": "points_per_side",
    "point_grids": "point_grids",
    "points_per_batch": "points_per_batch",
    "pred_iou_thresh": "iou_threshold",
    "stability_score_thresh": "stability_threshold",
    "stability_score_offset": "stability_offset",
    "mask_threshold": "mask_threshold",
    "box_nms_thresh": "nms_threshold",
    "crop_n_layers": "crop_layers",
    "crop_nms_thresh": "crop_nms_threshold",
    "crop_overlap_ratio": "crop_overlap",
    "crop_n_points_downscale_factor": "crop_points_downscale",
    "use_m2m": "refine",
    "multimask_output": "several",
}


def generators(theirs, ours, **options):
    """Both generators with the same options, in upstream's words."""
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    reference = SAM2AutomaticMaskGenerator(theirs, **options)
    reference.predictor._bb_feat_sizes = [(theirs.image_size // s,) * 2 for s in (4, 8, 16)]
    return reference, MaskGenerator(ours, **{WORDS[name]: value for name, value in options.items()})


def agree(found, expected, *, exact=False):
    """The same records in the same order; with `exact` to the last bit, else up to pixels that rounding can flip."""
    assert len(found) == len(expected) > 0
    for mask, record in zip(found, expected):
        ours = mask.record()
        assert list(ours) == list(record)
        assert ours["point_coords"] == record["point_coords"] and ours["crop_box"] == record["crop_box"]
        differing = (ours["segmentation"] != record["segmentation"]).sum()
        if exact:
            assert not differing
            assert {key: ours[key] for key in ("area", "bbox", "predicted_iou", "stability_score")} == {
                key: record[key] for key in ("area", "bbox", "predicted_iou", "stability_score")
            }
        else:
            assert differing <= 2 + 1e-4 * record["area"]
            assert ours["bbox"] == pytest.approx(record["bbox"], abs=2)
            assert ours["predicted_iou"] == pytest.approx(record["predicted_iou"], abs=1e-4)
            assert ours["stability_score"] == pytest.approx(record["stability_score"], abs=2e-3)


@lru_cache(maxsize=4)
def pair(size, image, seed):
    shape = oracle.SHAPES[size].at(image=image)
    model = oracle.upstream(shape)
    oracle.randomise(model, seed)
    return model, oracle.ours(shape, oracle.to_ours(model.state_dict()))


CASES = {
    "plain": {},
    "batches": {"points_per_batch": 5},
    "single": {"multimask_output": False},
    "threshold": {"mask_threshold": 0.2, "stability_score_offset": 0.1},
    "unfiltered": {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    "grids": {"points_per_side": None, "point_grids": [np.array([[0.1, 0.9], [0.5, 0.5], [0.77, 0.31]])]},
    "crops": {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "more crops": {"crop_n_layers": 2, "crop_overlap_ratio": 0.2, "points_per_side": 4},
    "refined": {"use_m2m": True, "points_per_side": 3},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("size", "image", "seed"), [("mini", 128, 0), ("mini", 192, 3)])
def test_random_models(size, image, seed, name):
    """Random weights give masks of noise that cover the picture: only without suppression are there many."""
    loose = {"points_per_side": 5, "stability_score_thresh": 0.05, "stability_score_offset": 0.1}
    loose |= {"pred_iou_thresh": 0.2, "box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}
    theirs, ours = generators(*pair(size, image, seed), **(loose | CASES[name]))
    image = picture(110, 180, seed)
    agree(ours.generate(image), theirs.generate(image))
