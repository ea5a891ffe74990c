"""The image predictor against Meta's, from the recording: an image that is not square, every kind of prompt."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from sam2core.predictors.image import ImagePredictor
from tests.golden.record import IMAGE_PROMPTS, photograph
from tests.parity import oracle
from tests.test_golden import model, section

EXPECTED = "expect/2.1/image/photograph"


def ours(prompt):
    """A recorded prompt in our words."""
    words = {"point_coords": "points", "point_labels": "labels", "box": "box"}
    return {words[name]: value for name, value in prompt.items()}


@cache
def handle():
    return ImagePredictor(model()).encode(photograph())


def compare(result, case):
    expected = section(f"{EXPECTED}/{case}")
    masks, iou, logits = (expected[name] for name in ("masks", "iou", "logits"))
    if masks.ndim == 3:  # Meta's sam2 drops the axis of a lone object
        masks, iou, logits = masks[None], iou[None], logits[None]
    assert oracle.error(result.logits, logits) <= 1e-4
    assert oracle.error(result.iou, iou) <= 1e-4
    certain = masks.abs() > 2e-4 * masks.abs().max()
    assert result.masks.shape == masks.shape
    assert torch.equal(result.masks[certain], masks[certain] > 0)
    assert certain.float().mean() > 0.99


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("name", IMAGE_PROMPTS)
def test_points_boxes_and_both(name, multimask_output):
    result = handle().predict(**ours(IMAGE_PROMPTS[name]), multimask_output=multimask_output)
    compare(result, f"{name}.{'several' if multimask_output else 'single'}")


@pytest.mark.parametrize("name", ["point", "box", "hint"])
def test_mask_inputs(name):
    mask_input = section(f"{EXPECTED}/point.several")["logits"][:1]
    prompt = ours(IMAGE_PROMPTS[name]) if name != "hint" else {}
    result = handle().predict(**prompt, mask_input=mask_input, multimask_output=False)
    compare(result, f"{name}.hint" if name != "hint" else "hint.single")
