"""Graphs compiled ahead of time answer as the model does."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from sam2core_export import load

import registry
from sam2core.cli import main
from sam2core.predictors.video import VideoPredictor

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 48, 80, 3), dtype=np.uint8)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling wants a C++ compiler")
def test_a_compiled_model_tracks_as_the_model(tmp_path):
    inductor = pytest.importorskip("torch._inductor")
    if not hasattr(inductor, "aoti_load_package"):
        pytest.skip("torch 2.6 writes packages")
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    model = registry.build("test_tiny", weights=False, image_size=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        model.mask_decoder.presence_head.layers[-1].bias.fill_(3.0)  # random objects would mostly be absent
    save_file(model.state_dict(), weights)
    words = ["compile", "test_tiny", "--weights", str(weights), "--image-size", "64", "-o", str(tmp_path / "out")]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.output
    answers = []
    for one in (model, load(tmp_path / "out")):
        session = VideoPredictor(one).open(FRAMES)
        session.prompt(0, "a", points=[[30, 20], [60, 40]], labels=[1, 0])
        session.prompt(0, "b", box=[10, 10, 50, 40])
        answers.append(torch.stack([result.logits for result in session.propagate()]))
    assert (answers[0] > 0).any()
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-3)
