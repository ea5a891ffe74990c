"""On a GPU: models answer there as they do on a CPU, in bfloat16 by default, and no tracked frame waits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import registry
from sam2core.ops.cuda.regions import pooled_regions
from sam2core.ops.regions import small_regions
from sam2core.predictors.automask import MaskGenerator
from sam2core.predictors.image import ImagePredictor
from sam2core.predictors.video import VideoPredictor

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
FRAMES = np.random.default_rng(0).integers(0, 256, (6, 48, 80, 3), dtype=np.uint8)


def model(device: str, **options):
    return registry.build("sam2core_nano", device=device, **options)


def followed(predictor: VideoPredictor) -> list[torch.Tensor]:
    session = predictor.open(FRAMES)
    session.prompt(0, 1, [(20, 20)])
    session.prompt(0, 2, [(60, 30)])
    return [result.logits.cpu() for result in session.propagate()]


def test_masks_are_those_of_a_cpu():
    for mine, theirs in zip(
        followed(VideoPredictor(model("cuda", dtype="float32"))), followed(VideoPredictor(model("cpu"))), strict=True
    ):
        assert ((mine > 0) == (theirs > 0)).float().mean() > 0.995


def test_bfloat16_is_the_default_and_hardly_changes_a_mask():
    half = model("cuda")
    assert half.dtype is torch.bfloat16 and half.head_dtype is torch.float32
    image = FRAMES[0]
    mine = ImagePredictor(half).encode(image).predict([(20, 20)]).masks.cpu()
    theirs = ImagePredictor(model("cpu")).encode(image).predict([(20, 20)]).masks
    assert (mine == theirs).float().mean() > 0.97


def test_a_tracked_frame_never_waits():
    session = VideoPredictor(model("cuda")).open(FRAMES)
    session.prompt(0, 1, [(20, 20)])
    steps = session.propagate()
    for _ in range(2):
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_automatic_masks_are_those_of_a_cpu():
    generators = [MaskGenerator(model(device, dtype="float32"), points_per_side=6) for device in ("cuda", "cpu")]
    mine, theirs = (generator.generate(FRAMES[0]) for generator in generators)
    assert abs(len(mine) - len(theirs)) <= 1 + len(theirs) // 20


def test_small_regions_stay_on_the_device():
    mask = torch.rand(3, 40, 50, device="cuda") < 0.4
    assert torch.equal(pooled_regions(mask, 8).cpu(), small_regions.plain(mask.cpu(), 8))
    assert torch.equal(small_regions(mask, 8).cpu(), small_regions.plain(mask.cpu(), 8))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_parts_answer_as_eager_ones(mode):
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = followed(VideoPredictor(model("cuda", dtype="float32"), compile=mode))
    for mine, theirs in zip(compiled, followed(VideoPredictor(model("cuda", dtype="float32"))), strict=True):
        assert ((mine > 0) == (theirs > 0)).float().mean() > 0.995
