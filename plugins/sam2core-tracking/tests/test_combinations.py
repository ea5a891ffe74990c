"""Any policy on any model: each object as if it were alone, forward, backward and as a stream."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from sam2core_tracking.beam import BeamMemory, BeamPredictor

import registry
from sam2core.predictors.video import VideoPredictor
from sam2core.testing import isolated

MODELS = {"test_tiny": None, "edgetam": "sam2core_edgetam", "efficienttam_ti_2": "sam2core_efficienttam"}
POLICIES = {
    "recent": {"frames": 2, "object_pointers": 4},
    "tracking.motion": {"frames": 2, "object_pointers": 4, "settle": 1},
    "tracking.distractor": {"slots": 3, "prompted": 2, "stride": 1, "object_pointers": 4},
    "example.confident": {"frames": 2, "min_iou": 0.0, "object_pointers": 4},
}
PROMPTS = {"a": {"points": [[20, 24]], "labels": [1]}, "b": {"box": [30, 8, 60, 40]}}
GENERATOR = np.random.default_rng(3)
CLIP = [np.roll(GENERATOR.integers(0, 255, (48, 64, 3), dtype=np.uint8), 3 * at, axis=1) for at in range(4)]


@pytest.fixture(scope="module", params=MODELS)
def zoo(request):
    """The model's name, in a registry of every plugin of these that is installed."""
    module = MODELS[request.param]
    if module is not None:
        pytest.importorskip(module)
    if module == "sam2core_edgetam":
        pytest.importorskip("timm")
    others = [name for name in ("sam2core_example", module) if name and importlib.util.find_spec(name)]
    with isolated("sam2core_tracking", *others):
        yield request.param


def build(name, **overrides):
    torch.manual_seed(0)
    model = registry.build(name, weights=False, image_size=256, **overrides)
    with torch.no_grad():
        model.mask_decoder.presence_head.layers[-1].bias.fill_(3.0)  # random objects would mostly be absent
    return model


def track(predictor, objects=("a", "b"), frame=0, direction="forward"):
    session = predictor.open(CLIP)
    for name in objects:
        session.prompt(frame, name, **PROMPTS[name])
    return {result.frame: result.logits for result in session.propagate(direction=direction)}


def near(one, other):
    return torch.allclose(one, other, atol=2e-3 * float(other.abs().max()))


@pytest.mark.parametrize("policy", POLICIES)
@torch.inference_mode()
def test_a_policy_on_a_model(zoo, policy):
    if policy.startswith("example") and importlib.util.find_spec("sam2core_example") is None:
        pytest.skip("sam2core-example is not installed")
    predictor = VideoPredictor(
        build(zoo, memory_policy={"type": policy, **POLICIES[policy]}),
        cleaning={"fill_holes": 0},
        memory_dtype="float32",
    )
    both, alone = track(predictor), track(predictor, ("b",))
    assert sorted(both) == [0, 1, 2, 3] and all(near(both[at][1:], alone[at]) for at in both)
    assert list(track(predictor, frame=3, direction="backward")) == [3, 2, 1, 0]
    live = predictor.open()
    for at, image in enumerate(CLIP):
        result = live.step(image, prompts=PROMPTS if at == 0 else {})
        assert near(result.logits, both[at])
    assert not near(both[3], both[1]), "nothing was tracked"


@torch.inference_mode()
def test_a_beam_on_a_model(zoo):
    predictor = BeamPredictor(
        build(zoo), beams=2, policy=BeamMemory(frames=2), cleaning={"fill_holes": 0}, memory_dtype="float32"
    )
    both, alone = track(predictor), track(predictor, ("b",))
    assert sorted(both) == [0, 1, 2, 3] and all(near(both[at][1:], alone[at]) for at in both)
    assert list(track(predictor, frame=3, direction="backward")) == [3, 2, 1, 0]
