"""`sam2core train` as a command: its recipes, `train check`, and what a run leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from registry.cli.train import RECIPES, command, read_recipe
from sam2core.training.recipe import Recipe, RecipeError

RECIPE = """
model: test_tiny
sources:
  - {path: ., reader: label_folder, options: {instances: true}}
stages:
  - {name: clips, steps: 2, size: 64, frames: 2, batch: 1, objects: 1, prompts: {mask: 0.5, corrections: 1}}
"""


@pytest.fixture
def data(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(2):
        labels = np.zeros((80, 100), np.uint8)
        labels[20:60, 20 : 60 + 10 * number] = 1
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
        Image.fromarray(np.repeat(labels[..., None] * 200, 3, 2)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def call(*arguments: object):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_reads(name):
    recipe = Recipe.read(read_recipe(name))
    assert recipe.steps > 0 and all(stage.size % 32 == 0 for stage in recipe.stages)


def test_the_video_recipe_is_metas():
    recipe = Recipe.read(read_recipe("finetune_video"))
    (stage,) = recipe.stages
    assert recipe.tracks and (stage.frames, stage.objects, stage.size, stage.batch) == (8, 3, 1024, 8)
    plan = stage.prompts
    assert plan is not None and (plan.mask, plan.box, plan.anchors, plan.corrected, plan.corrections) == (
        0.5,
        0.5,
        2,
        2,
        7,
    )
    assert not plan.vary and not plan.correct_masks and plan.from_target == 0.1
    assert (recipe.optim.lr, recipe.optim.floor, recipe.optim.clip, recipe.optim.layer_decay) == (5e-6, 5e-7, 0.1, 0.9)
    assert recipe.optim.decay == "upstream" and recipe.optim.rules[0].lr == 0.6
    weights = stage.losses
    assert (weights.focal, weights.dice, weights.iou, weights.presence, weights.compat) == (20, 1, 1, 1, "upstream")


def test_a_run_leaves_a_table_a_plot_and_weights(data):
    result = call("--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", "--workers", 0)
    assert result.exit_code == 0 and "clips 2/2" in result.stderr and "frames/s" in result.stderr
    assert result.stdout.strip() == str(data / "run" / "weights.safetensors")
    assert {"checkpoint.pt", "losses.png", "metrics.csv", "weights.safetensors"} <= {
        p.name for p in (data / "run").iterdir()
    }
    assert Image.open(data / "run" / "losses.png").size == (900, 420)


def test_check_counts_and_draws(data):
    result = call("check", "--recipe", data / "recipe.yaml", "--data", data, "-o", data / "sheet.png")
    assert result.exit_code == 0 and "2 pictures, 2 objects of 20" in result.stdout
    assert Image.open(data / "sheet.png").size == (2 * 192, 4 * 192)


def test_check_names_all_that_cannot_be_used(data):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "labels" / "1.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data / "images" / "2.png")
    (data / "images" / "0.png").write_bytes(b"no picture")
    result = call("check", "--recipe", data / "recipe.yaml", "--data", data, "-o", data / "sheet.png")
    assert result.exit_code == 1 and not (data / "sheet.png").exists()
    for part in ("cannot read image", "1.png is (8, 8)", "2.png has no labels/2.png", "0 pictures, no object"):
        assert part in result.stdout
    result = call("check", "--recipe", data / "recipe.yaml", "--data", data / "labels")
    assert result.exit_code == 1 and "must hold the folders" in result.stdout


def test_recipes_say_what_they_do_not_know():
    with pytest.raises(RecipeError, match=r"unknown key 'optim.layerdecay'.*did you mean 'layer_decay'"):
        Recipe.read(read_recipe("nano", ("optim.layerdecay=0.9",)))
    with pytest.raises(RecipeError, match="optim: optim.decay is one of matrices, upstream, not 'all'"):
        Recipe.read(read_recipe("nano", ("optim.decay=all",)))
    with pytest.raises(RecipeError, match="start is 'fresh' or 'weights'"):
        Recipe.read(read_recipe("nano", ("start=now",)))


def test_adapters_are_merged_into_plain_weights(data):
    pytest.importorskip("peft")
    import torch

    import registry
    from registry.cli.train import open_source
    from sam2core.training.augment import Mixture
    from sam2core.training.loop import train

    tree = read_recipe(str(data / "recipe.yaml"))
    tree["lora"] = {"rank": 2, "targets": ["backbone.*.qkv"], "train": ["mask_decoder.iou_head"]}
    tree["optim"] = {"warmup": 0, "lr": 1e-2}
    recipe = Recipe.read(tree)
    mixture = Mixture([open_source(recipe, 0, data, data / "pack", True)], [1.0])
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False)
    recipe = Recipe.read({**tree, "start": "weights"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, recipe, mixture, data / "run", workers=0)
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("qkv.weight" in name for name in changed)
    assert all("qkv.weight" in name or name.startswith("mask_decoder.iou_head") for name in changed)
    metrics = (data / "run" / "metrics.csv").read_text()
    assert json.dumps(metrics).count("clips") == 2
