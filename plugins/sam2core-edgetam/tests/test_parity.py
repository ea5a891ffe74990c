"""Ours against the original EdgeTAM with equal, re-randomised tensors.

Needs the original in a folder of its own, because its package is called `sam2`:

    pip install --no-deps --target FOLDER edgetam-dimos
    SAM2CORE_EDGETAM_ORIGINAL=FOLDER pytest plugins/sam2core-edgetam
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sam2core_edgetam.layouts import EDGETAM

import registry
from sam2core.checkpoints import files
from sam2core.media.images import read_image
from sam2core.predictors.transforms import to_model
from sam2core.predictors.video import VideoPredictor

ORIGINAL = os.environ.get("SAM2CORE_EDGETAM_ORIGINAL")
SIDE = 512
RECORDER = Path(__file__).with_name("recorder.py")

pytestmark = pytest.mark.skipif(not ORIGINAL, reason="SAM2CORE_EDGETAM_ORIGINAL names no folder with the original")


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference relative to the spread of what is expected."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / (expected.max() - expected.min()).clamp_min(1e-12))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edgetam")
    names = [str(folder / "recording.safetensors"), str(folder / "original.pt")]
    subprocess.run([sys.executable, str(RECORDER), str(ORIGINAL), str(SIDE), *names], check=True, cwd=folder)
    return load_file(names[0]), Path(names[1])


@pytest.fixture(scope="module")
def model(recording):
    return registry.build("edgetam", weights=str(recording[1]), image_size=SIDE)


def test_the_released_layout_is_read_and_written_back(recording):
    given, _ = files.read(recording[1])
    found = EDGETAM.inverse(EDGETAM.rename(given))
    assert set(found) == set(given)
    unused = {"no_mem_pos_enc"}  # nothing reads it; it is written as zeros
    assert all(torch.equal(found[name], given[name]) for name in set(given) - unused)


@torch.inference_mode()
def test_backbone_and_neck(recording, model):
    expected = recording[0]
    pixels = to_model(read_image(clip()[0]), model.image_size)
    for level, map_ in enumerate(model.backbone(pixels)):
        assert error(map_, expected[f"trunk.{level}"]) < 1e-4
    assert error(model.encode(pixels).embedding, expected["embedding"]) < 1e-4


@pytest.mark.parametrize("together", [True, False], ids=["together", "alone"])
@torch.inference_mode()
def test_tracking(recording, model, together):
    """Objects computed together, which the original cannot do, give what it gives for each alone."""
    compared = 0
    for group in [(1, 2)] if together else [(1,), (2,)]:
        session = VideoPredictor(model, cleaning={"fill_holes": 0}, keep_corrections=False).open(list(clip()))
        for frame, number, points, labels in recorder().prompts(SIDE):
            if number in group:
                session.prompt(frame=frame, object=number, points=points, labels=labels)
        for result in session.propagate():
            for row, number in enumerate(result.objects):
                name = f"{number}.{result.frame}"
                assert error(result.video_logits[row], recording[0][f"logits.{name}"]) < 1e-3, name
                compared += 1
    assert compared == 2 * recorder().FRAMES


@cache
def recorder():
    spec = importlib.util.spec_from_file_location("edgetam_recorder", RECORDER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def clip():
    return recorder().video(SIDE).numpy()
