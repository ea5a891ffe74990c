"""What `sam2core train` writes goes back to Meta's code: converted and loaded strictly, it gives the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import registry
from registry.cli.convert import command as convert
from registry.cli.train import command as train
from tests.parity.oracle import Shape, upstream

TINY = Shape(8, 1, (1, 1, 2, 1), (8, 4, 6, 3), (3,), (7, 7), 128, 32, 16, 64, 4, 2)  # the spec test_tiny
RECIPE = """
model: test_tiny
overrides: {memory_policy: {frames: 6, pointers: 16}, memory_readout: {slots: 7}}
sources:
  - {path: ., reader: label_folder, options: {instances: true}}
stages:
  - {name: clips, steps: 1, size: 64, frames: 2, batch: 1, objects: 1}
"""


def test_meta_loads_what_was_trained(tmp_path):
    pytest.importorskip("sam2", reason="sam2 is the reference")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    labels = np.zeros((80, 80), np.uint8)
    labels[20:60, 20:60] = 1
    Image.fromarray(labels).save(tmp_path / "labels" / "0.png")
    Image.fromarray(np.repeat(labels[..., None] * 200, 3, 2)).save(tmp_path / "images" / "0.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--data", str(tmp_path), "-o", str(tmp_path / "run")]
    assert CliRunner().invoke(train, [*arguments, "--workers", "0"], catch_exceptions=False).exit_code == 0
    weights, target = tmp_path / "run" / "weights.safetensors", tmp_path / "theirs.pt"
    arguments = [str(weights), str(target), "--to", "facebook"]
    assert CliRunner().invoke(convert, arguments, catch_exceptions=False).exit_code == 0

    theirs = upstream(TINY)
    state = torch.load(target, weights_only=True)["model"]
    theirs.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    ours = registry.build(weights)
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = theirs.forward_image(pixels)["backbone_fpn"][-1]
        assert torch.allclose(ours.encode(pixels).embedding, expected, atol=1e-4)
