"""Our image predictor live against Meta's sam2 and transformers: the same image and prompts in, the same masks out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from sam2core.predictors.image import ImagePredictor
from tests.parity import oracle
from tests.parity.whose import need_upstream

need_upstream()

MODELS = [("t", 256, 0), ("b+", 256, 1), ("mini", 128, 2), ("mini", 192, 3)]
POINTS, LABELS = [[60.0, 40.0], [150.0, 20.0], [0.0, 0.0], [179.0, 109.0]], [1, 0, 1, 1]
BOX, BOXES = (
    [20.0, 10.0, 120.0, 90.0],
    [[20.0, 10.0, 120.0, 90.0], [0.0, 0.0, 179.0, 109.0], [90.5, 30.25, 130.0, 60.0]],
)
PROMPTS = {
    "point": {"points": POINTS[:1], "labels": LABELS[:1]},
    "points": {"points": POINTS, "labels": LABELS},
    "box": {"box": BOX},
    "box_and_points": {"box": BOX, "points": POINTS[:2], "labels": LABELS[:2]},
    "boxes": {"box": BOXES},
    "objects": {"points": [POINTS[:2], POINTS[1:3]], "labels": [[1, 0], [1, 1]]},
    "boxes_and_points": {"box": BOXES[:2], "points": [POINTS[:1], POINTS[1:2]], "labels": [[1], [0]]},
}
WORDS = {"points": "point_coords", "labels": "point_labels", "box": "box", "mask_input": "mask_input"}


def picture(height, width, seed=0):
    """An image with edges and smooth parts, uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    sharp = coarse.repeat(10, axis=0).repeat(10, axis=1)[:height, :width].astype(int)
    return np.clip(sharp + generator.integers(-40, 40, sharp.shape), 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def pair(size, image, seed):
    shape = oracle.SHAPES[size].at(image=image)
    model = oracle.upstream(shape)
    oracle.randomise(model, seed)
    oracle.force_object_score(model, -5.0 if seed % 2 else 5.0)  # the image predictor does not gate
    return oracle.upstream_predictor(model), ImagePredictor(oracle.ours(shape, oracle.to_ours(model.state_dict())))


@pytest.fixture(params=MODELS, ids=[f"{size}-{image}-seed{seed}" for size, image, seed in MODELS], scope="module")
def predictors(request):
    theirs, ours = pair(*request.param)
    theirs.set_image(picture(110, 180))
    return theirs, ours.encode(picture(110, 180))


def theirs_predict(theirs, prompt, multimask_output):
    given = {WORDS[name]: np.asarray(value) for name, value in prompt.items()}
    masks, iou, logits = theirs.predict(**given, multimask_output=multimask_output, return_logits=True)
    return masks, iou, logits


def compare(result, expected):
    masks, iou, logits = (torch.as_tensor(np.asarray(value)) for value in expected)
    if masks.ndim == 3:
        masks, iou, logits = masks[None], iou[None], logits[None]
    assert oracle.error(result.logits, logits) <= 1e-4
    assert oracle.error(result.iou, iou) <= 1e-4
    certain = masks.abs() > 2e-4 * masks.abs().max()
    assert result.masks.shape == masks.shape and torch.equal(result.masks[certain], (masks > 0)[certain])
    assert certain.float().mean() > 0.99


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(predictors, name, multimask_output):
    theirs, ours = predictors
    compare(
        ours.predict(**PROMPTS[name], multimask_output=multimask_output),
        theirs_predict(theirs, PROMPTS[name], multimask_output),
    )


@pytest.mark.parametrize("name", ["point", "points", "box", "box_and_points"])
def test_an_earlier_answer_as_hint(predictors, name):
    theirs, ours = predictors
    expected = theirs_predict(theirs, PROMPTS["point"], True)
    best = int(expected[1].argmax())
    mask_input = expected[2][best : best + 1]
    prompt = PROMPTS[name] | {"mask_input": mask_input}
    compare(ours.predict(**prompt, multimask_output=False), theirs_predict(theirs, prompt, False))


def test_a_mask_input_alone(predictors):
    theirs, ours = predictors
    mask_input = theirs_predict(theirs, PROMPTS["box"], False)[2]
    for multimask_output in (True, False):
        compare(
            ours.predict(mask_input=mask_input, multimask_output=multimask_output),
            theirs_predict(theirs, {"mask_input": mask_input}, multimask_output),
        )


@pytest.mark.parametrize("multimask_output", [True, False])
def test_batches_of_images_of_different_sizes(predictors, multimask_output):
    theirs, ours = predictors
    images = [picture(110, 180, 1), picture(70, 70, 2), picture(200, 64, 3)]
    theirs.set_image_batch(images)
    prompts = [
        {"points": [[60.0, 40.0]], "labels": [1]},
        {"box": [[5.0, 5.0, 60.0, 50.0], [1.0, 30.0, 69.0, 69.0]]},
        {"points": [[[10.0, 150.0], [50.0, 20.0]]], "labels": [[1, 0]], "box": [[3.0, 100.0, 60.0, 190.0]]},
    ]

    def column(name):
        return [np.asarray(prompt[name]) if name in prompt else None for prompt in prompts]

    expected = theirs.predict_batch(
        column("points"), column("labels"), column("box"), multimask_output=multimask_output, return_logits=True
    )
    handle = ours.predictor.encode(images)
    found = handle.predict([prompt | {"multimask_output": multimask_output} for prompt in prompts])
    for index, result in enumerate(found):
        compare(result, [part[index] for part in expected])
        compare(
            handle[index].predict(**prompts[index], multimask_output=multimask_output),
            [part[index] for part in expected],
        )
    theirs.set_image(picture(110, 180))


@pytest.mark.parametrize("kind", ["pil", "tensor", "float"])
def test_other_kinds_of_picture(predictors, kind):
    from PIL import Image

    theirs, ours = predictors
    image = picture(110, 180)
    given = {
        "pil": Image.fromarray(image),
        "tensor": torch.from_numpy(image).permute(2, 0, 1),
        "float": image.astype(np.float32) / 255,
    }[kind]
    found = ours.predictor.encode(given).predict(**PROMPTS["point"], multimask_output=True)
    compare(found, theirs_predict(theirs, PROMPTS["point"], True))


def test_full_size_once():
    """Tiny at 1024 pixels, as published: windows pad from 64 to 70 there."""
    theirs, ours = pair("t", 1024, 4)
    image = picture(240, 360, 5)
    theirs.set_image(image)
    handle = ours.encode(image)
    for name, multimask_output in (("point", True), ("box", False), ("boxes", False)):
        compare(
            handle.predict(**PROMPTS[name], multimask_output=multimask_output),
            theirs_predict(theirs, PROMPTS[name], multimask_output),
        )


def test_transformers_from_pixels_to_masks():
    """Its own processor resizes uint8 and not float: its pixels differ by rounding, so its masks nearly agree."""
    transformers = pytest.importorskip("transformers")
    from sam2core.checkpoints.huggingface import HUGGINGFACE_IMAGE

    shape = oracle.SHAPES["t"]
    model = oracle.randomise(oracle.ours(shape), 6)
    theirs = oracle.transformers_model(shape)
    theirs.load_state_dict(HUGGINGFACE_IMAGE.inverse(model.state_dict()), strict=True)
    size = {"height": shape.image, "width": shape.image}
    mask_size = {"height": shape.image // 4, "width": shape.image // 4}
    images = transformers.Sam2ImageProcessor(size=size, mask_size=mask_size)
    processor = transformers.Sam2Processor(images, target_size=shape.image)
    image = picture(110, 180, 7)
    handle = ImagePredictor(model).encode(image)
    cases = {
        "points": (
            {"points": POINTS, "labels": LABELS},
            {"input_points": [[POINTS]], "input_labels": [[LABELS]]},
        ),
        "boxes": ({"box": BOXES}, {"input_boxes": [BOXES]}),
    }
    for prompt, given in cases.values():
        inputs = processor(images=image, return_tensors="pt", **given)
        pixels = inputs["pixel_values"]
        assert (pixels - _pixels(image, shape.image)).abs().max() < 0.02  # one step of 255, normalised
        with torch.no_grad():
            output = theirs(**inputs, multimask_output=True)
            inputs["pixel_values"] = _pixels(image, shape.image)
            same_pixels = theirs(**inputs, multimask_output=True)
        result = handle.predict(**prompt, multimask_output=True)
        assert oracle.error(result.logits, same_pixels.pred_masks[0].clamp(-32, 32)) <= 1e-4
        assert oracle.error(result.iou, same_pixels.iou_scores[0]) <= 1e-4
        (masks,) = processor.post_process_masks(output.pred_masks, inputs["original_sizes"])
        assert (masks == result.masks).float().mean() > 0.95


def _pixels(image, side):
    from sam2core.media.images import read_image
    from sam2core.predictors.transforms import to_model

    return to_model(read_image(image), (side, side))
