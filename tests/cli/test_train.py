"""`sam2core train` as a command: its recipes, `train check`, and what a run leaves behind."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import registry
from registry.plugins import current
from sam2core.checkpoints import files
from sam2core.cli.train import command
from sam2core.cli.train_data import initialisation, open_source, read_recipe
from sam2core.data.pictures import DataError
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


@pytest.mark.parametrize("name", sorted(current().recipes))
def test_every_recipe_reads(name):
    recipe = Recipe.read(read_recipe(name))
    assert recipe.steps > 0 and all(stage.size % 32 == 0 for stage in recipe.stages)


def test_the_video_recipe_is_metas():
    recipe = Recipe.read(read_recipe("finetune_video"))
    (stage,) = recipe.stages
    assert recipe.tracks and (stage.frames, stage.objects, stage.size, stage.batch) == (8, 3, 1024, 8)
    plan = stage.prompts
    assert plan is not None and (plan.mask, plan.box, plan.prompted, plan.corrected, plan.corrections) == (
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
    assert (weights.focal, weights.dice, weights.iou, weights.object_score, weights.compat) == (20, 1, 1, 1, "upstream")


def test_a_run_leaves_a_table_a_plot_and_weights(data):
    result = call("--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", "--workers", 0)
    assert result.exit_code == 0 and "clips 2/2" in result.stderr and "frames/s" in result.stderr
    assert result.stdout.strip() == str(data / "run" / "weights.safetensors")
    assert {"checkpoint.pt", "losses.png", "metrics.csv", "weights.safetensors"} <= {
        p.name for p in (data / "run").iterdir()
    }
    assert Image.open(data / "run" / "losses.png").size == (900, 420)


def test_decoded_pictures_follow_the_data_and_its_options(data):
    recipe = Recipe.read(read_recipe(str(data / "recipe.yaml")))
    held = Recipe.read(read_recipe(str(data / "recipe.yaml"), ("sources.0.options.holdout=1",)))
    pack = open_source(recipe, 0, data, data / "pack", True)
    written = (data / "pack" / "0_" / "index.json").stat().st_mtime_ns
    assert len(pack) == 2 and len(open_source(recipe, 0, data, data / "pack", True)) == 2
    assert (data / "pack" / "0_" / "index.json").stat().st_mtime_ns == written
    assert len(open_source(held, 0, data, data / "pack", True)) == 1  # not the images that are kept for the test
    assert len(pack) == 2 and pack[1].image.shape == (80, 100, 3)  # who has it open keeps it
    labels = np.zeros((80, 100), np.uint8)
    labels[:8] = 5
    Image.fromarray(labels).save(data / "labels" / "0.png")
    assert (open_source(held, 0, data, data / "pack", True)[0].regions > 0).sum() == 800


def test_clips_are_tracked_to_validate_and_the_best_weights_are_kept(data):
    for name in ("JPEGImages/a", "Annotations/a"):
        (data / "clips" / name).mkdir(parents=True)
    for t in range(4):
        labels = np.zeros((60, 80), np.uint8)
        labels[10:40, 5 + 4 * t : 45 + 4 * t] = 1
        Image.fromarray(labels).save(data / "clips" / "Annotations" / "a" / f"{t}.png")
        Image.fromarray(labels[..., None].repeat(3, 2) * 200).save(data / "clips" / "JPEGImages" / "a" / f"{t}.jpg")
    arguments = ["--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", "--workers", 0]
    result = call(*arguments, "--validate", data / "clips", "--every", 1)
    assert result.exit_code == 0 and "step 1: J&F 0." in result.stderr
    rows = list(csv.DictReader(open(data / "run" / "validation.csv")))
    assert [row["step"] for row in rows] == ["1", "2"] and list(rows[0]) == ["step", "J&F", "J", "F"]
    held = files.read_metadata(data / "run" / "best.safetensors")
    assert float(held["sam2core.score"]) == pytest.approx(max(float(row["J&F"]) for row in rows), abs=1e-5)
    assert registry.build(data / "run" / "best.safetensors").spec.name == "test_tiny"
    assert Image.open(data / "run" / "losses.png").size == (900, 840)
    assert files.read(data / "run" / "weights.safetensors")[0]["memory_readout.no_memory"].dtype == torch.float32


def test_interrupted_from_the_keyboard(data):
    """The first Ctrl-C waits for the step and leaves a checkpoint; exit code 130."""
    arguments = ["--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", "stages.0.steps=100000"]
    line = [sys.executable, "-m", "sam2core", "train", *map(str, arguments)]
    child = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in child.stderr:
        if "clips 1/100000" in line:
            break
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    out, told = child.communicate(timeout=300)
    assert child.returncode == 130 and "stopped; the same line goes on from here" in told and "Traceback" not in told
    assert not out and (data / "run" / "checkpoint.pt").exists() and not (data / "run" / "weights.safetensors").exists()


def test_check_counts_and_draws(data):
    result = call("check", "--recipe", data / "recipe.yaml", "--data", data, "-o", data / "sheet.png")
    assert result.exit_code == 0 and "2 images, 2 objects of 20" in result.stdout
    assert Image.open(data / "sheet.png").size == (2 * 192, 4 * 192)


def test_check_names_all_that_cannot_be_used(data):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "labels" / "1.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(data / "images" / "2.png")
    (data / "images" / "0.png").write_bytes(b"no picture")
    result = call("check", "--recipe", data / "recipe.yaml", "--data", data, "-o", data / "sheet.png")
    assert result.exit_code == 1 and not (data / "sheet.png").exists()
    for part in ("cannot read image", "1.png is (8, 8)", "2.png has no labels/2.png", "0 images, no object"):
        assert part in result.stdout
    with pytest.raises(ValueError, match="sheet.png cannot be written: .*nowhere is no folder"):
        call("check", "--recipe", data / "recipe.yaml", "--data", data, "-o", data / "nowhere" / "sheet.png")
    result = call("check", "--recipe", data / "recipe.yaml", "--data", data / "labels")
    assert result.exit_code == 1 and "must hold the folders" in result.stdout


def test_recipes_say_what_they_do_not_know():
    with pytest.raises(RecipeError, match=r"unknown key 'optim.layerdecay'.*did you mean 'layer_decay'"):
        Recipe.read(read_recipe("nano", ("optim.layerdecay=0.9",)))
    with pytest.raises(RecipeError, match="optim: optim.decay is one of matrices, upstream, not 'all'"):
        Recipe.read(read_recipe("nano", ("optim.decay=all",)))
    with pytest.raises(ValueError, match=r"start is 'weights', or an initialisation: .*'now'.*\n.*fresh, localised"):
        initialisation(Recipe.read(read_recipe("nano", ("start=now",))))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=abc", "recipe: optim.lr is float, not 'abc'"),
        ("stages.0.steps=x", "recipe: stages[0].steps is int, not 'x'"),
        ("optim.betas=[0.9]", "recipe: optim.betas is tuple[float, float]"),
        ("freeze=nope", "recipe: freeze is tuple[str, ...], not 'nope'"),
        ("sources=x", "recipe: sources is tuple[Source, ...], not 'x'"),
        ("optim.lr=[", "override 'optim.lr=['"),
        ("sources.0.reader=label_foldr", "did you mean 'label_folder'"),
        ("sources.0.options.holdot=1", "did you mean 'holdout'"),
        ("sources.0.options.holdout=x", "the option 'holdout' is int; got 'x'"),
        ("freeze=[trunk]", "freeze: no parameter matches 'trunk'"),
        ("optim.rules=[{match: trunk}]", "optim.rules: no parameter matches 'trunk'"),
        ("model=test_tinny", "did you mean 'test_tiny'"),
        ("overrides={neck: {top_down: 16}}", "the option 'top_down' is Sequence"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_before_pictures_are_decoded(data, override, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call("--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", override)
    assert not (data / "run").exists()


@pytest.mark.parametrize("override", ["optim.name=muon", "stages.0.again=true"])
def test_what_shards_cannot_do_is_told_before_pictures_are_decoded(data, override):
    with pytest.raises(ValueError, match="which shards have not"):
        call("--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", "--shard", override)
    assert not (data / "run").exists()


def test_recipes_that_are_none(data):
    result = call("--data", data)
    assert result.exit_code == 2 and "say how to train: --recipe" in result.stderr
    with pytest.raises(ValueError, match="there is no recipe 'finetune_imag'.*\n  did you mean 'finetune_image'"):
        read_recipe("finetune_imag")
    for text, words in (("a: [", "not readable as YAML"), ("- a", "a recipe is a mapping")):
        (data / "wrong.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_recipe(str(data / "wrong.yaml"))


def test_a_checkpoint_that_was_cut_short_is_told(data):
    (data / "run").mkdir()
    arguments = ("--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run")
    torch.save({"step": torch.zeros(1000)}, data / "run" / "checkpoint.pt")
    whole = (data / "run" / "checkpoint.pt").read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for damaged in (whole[:2000], b"", whole[:60] + bytes(100) + whole[160:directory] + whole[directory:]):
        (data / "run" / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(DataError, match="is no whole checkpoint"):
            call(*arguments)


def test_adapters_without_peft(run, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    ended = run("train", "--recipe", data / "recipe.yaml", "--data", data, "-o", data / "run", "lora={rank: 2}")
    assert ended.code == 3 and "pip install 'sam2core[lora]'" in ended.err and "Traceback" not in ended.err


def test_adapters_are_merged_into_plain_weights(data):
    pytest.importorskip("peft")
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
