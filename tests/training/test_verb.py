"""`sam2core train` and `sam2core evaluate clicks`, from a folder of images to weights that load and a table."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import registry
from sam2core.cli.evaluate import command as evaluate
from sam2core.cli.train import command as train
from sam2core.cli.train_data import read_recipe
from sam2core.training.recipe import Recipe

RECIPE = """
model: test_tiny
sources:
  - {path: squares, reader: label_folder, options: {instances: true}}
optim: {warmup: 1}
stages:
  - {name: dense, steps: 1, size: 64, batch: 2, objects: 2, dense: 1.0, prompts: null}
  - {name: clicks, steps: 2, size: 64, batch: 2, objects: 2, again: true}
start: localised
"""


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "squares"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(3):
        labels = np.zeros((80, 100), np.uint8)
        labels[10:50, 10 : 40 + 10 * number] = 1
        image = np.full((80, 100, 3), 60, np.uint8)
        image[labels == 1] = (200, 80 * number, 30)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_train_and_evaluate(data):
    arguments = ["--recipe", str(data / "recipe.yaml"), "--data", str(data / "data"), "-o", str(data / "run")]
    arguments += ["--workers", "0", "--validate", str(data / "data" / "squares"), "--every", "2"]
    result = CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(data / "run" / "weights.safetensors")
    assert "iou@1" in result.stderr and "clicks 3/3" in result.stderr
    model = registry.build(data / "run" / "weights.safetensors")
    assert model.spec.name == "test_tiny" and model.dtype == torch.float32
    before = model.state_dict()
    assert CliRunner().invoke(train, arguments, catch_exceptions=False).exit_code == 0  # nothing left to do
    after = registry.build(data / "run" / "weights.safetensors").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)

    common = [str(data / "data" / "squares"), "-m", str(data / "run" / "weights.safetensors"), "--device", "cpu"]
    result = CliRunner().invoke(evaluate, ["clicks", *common, "--clicks", "2", "--foreground"], catch_exceptions=False)
    lines = result.stdout.strip().splitlines()
    assert lines[0].startswith("3 images, 3 objects")
    scores = {line.split()[0]: float(re.search(r"\d\.\d+", line.partition(" ")[2])[0]) for line in lines[-2:]}
    flood = scores["flood"]
    assert flood > 0.8  # squares of one colour
    result = CliRunner().invoke(evaluate, ["clicks", *common, "--json", "--no-baselines"], catch_exceptions=False)
    (scores,) = json.loads(result.stdout).values()
    assert list(scores) == ["0.png", "1.png", "2.png"] and 0 <= scores["0.png"][0][0] <= 1


def test_the_nano_recipe_reads_and_takes_overrides():
    recipe = Recipe.read(read_recipe("nano", ("optim.lr=0.5", "stages.0.steps=7", "seed=3")))
    assert recipe.optim.lr == 0.5 and recipe.stages[0].steps == 7 and recipe.seed == 3
    assert recipe.model == "sam2core_nano" and recipe.stages[-1].frames == 10
    with pytest.raises(ValueError, match="no recipe 'nanno'; there are .*nano"):
        read_recipe("nanno")
    with pytest.raises(ValueError, match="unknown key 'optim.rate'"):
        Recipe.read(read_recipe("nano", ("optim.rate=1",)))
