"""The loop learns, goes on after an interruption as if there had been none, and refuses what it cannot follow."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch

import registry
from sam2core.data.pictures import DataError
from sam2core.nano.initialisation import Localised, init_localised, init_localised_for
from sam2core.training import loop
from sam2core.training.augment import Augment, Mixture
from sam2core.training.clips import collate
from sam2core.training.loop import best_validation, train
from sam2core.training.losses import LossWeights
from sam2core.training.prompting import PromptPlan
from sam2core.training.recipe import Recipe, RecipeError
from sam2core.training.rollout import Rollout
from sam2core.types import Prompt
from tests.training.job import squares as pictures

PLAIN = Augment(zoom=(0.9, 1.0), whole=0.5, paste=0.0, shapes=0.0, colour=0.0, grey=0.0, blur=0.0, noise=0.0)


def recipe(**changes) -> Recipe:
    stages = [
        {"name": "dense", "steps": 2, "size": 64, "batch": 2, "objects": 2, "dense": 1.0, "prompts": None},
        {
            "name": "clicks",
            "steps": 4,
            "size": 64,
            "batch": 2,
            "objects": 2,
            "again": True,
            "prompts": {"box": 0.3, "corrections": 1},
        },
    ]
    tree = {
        "model": "test_tiny",
        "sources": [{"path": "-", "reader": "label_folder"}],
        "stages": stages,
        "optim": {"warmup": 2, "lr": 1e-3},
    }
    return Recipe.read({**tree, **changes})


MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon needs torch 2.9 or newer")


def run(folder, *, name: str = "adamw", **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = registry.build("test_tiny", weights=False)
    mixture = Mixture([pictures()], [1.0], augment=PLAIN)
    steps = recipe(optim={"warmup": 2, "lr": 1e-3, "name": name})
    return train(model, steps, mixture, folder, workers=0, initialise=Localised(), **options).state_dict()


@pytest.mark.parametrize("name", ["adamw", pytest.param("muon", marks=MUON)])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, name):
    whole = run(tmp_path / "whole", name=name)
    for _ in range(4):
        pieces = run(tmp_path / "pieces", name=name, save_every=100, stop_after=2)
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    rows = list(csv.DictReader(open(tmp_path / "pieces" / "metrics.csv")))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["stage"] for row in rows] == ["dense"] * 2 + ["clicks"] * 4


def test_another_recipes_checkpoint_is_refused_unless_that_is_meant(tmp_path):
    run(tmp_path, stop_after=2)
    other = recipe(optim={"warmup": 2, "lr": 1e-2, "accumulate": 2})
    model = registry.build("test_tiny", weights=False)
    mixture = Mixture([pictures()], [1.0], augment=PLAIN)
    with pytest.raises(RecipeError, match=r"of a run with another recipe: optim.lr was 0.001, is 0.01. Name"):
        train(model, other, mixture, tmp_path, workers=0)
    longer = replace(recipe(), stages=[*recipe().stages, recipe().stages[0]])
    with pytest.raises(RecipeError, match=r"another recipe: stages has 3 entries, had 2. Name"):
        train(model, longer, mixture, tmp_path, workers=0)
    steps = []
    train(
        model,
        other,
        mixture,
        tmp_path,
        workers=0,
        changed=True,
        initialise=Localised(),
        report=lambda told: steps.append(told.step),
    )
    assert steps == [3, 4, 5, 6]


@MUON
def test_a_runs_optimiser_stays_and_muon_has_no_shards(tmp_path):
    run(tmp_path, stop_after=2)
    with pytest.raises(RecipeError, match=r"another recipe: optim.name was 'adamw', is 'muon'. Name"):
        run(tmp_path, name="muon")
    with pytest.raises(RecipeError, match="optim.name cannot be changed within a run"):
        run(tmp_path, name="muon", changed=True)
    with pytest.raises(RecipeError, match="whole matrices, which shards have not"):
        train(
            registry.build("test_tiny", weights=False),
            recipe(optim={"name": "muon"}, stages=[{"name": "clicks", "steps": 1, "size": 64, "batch": 2}]),
            Mixture([pictures()], [1.0], augment=PLAIN),
            tmp_path / "shards",
            shard=True,
        )


def test_a_run_stops_when_asked_and_goes_on_as_if_it_had_not(tmp_path):
    whole = run(tmp_path / "whole")
    stop, told = Event(), []

    def report(progress) -> None:
        told.append(progress.step)
        if progress.step == 2:
            stop.set()

    run(tmp_path / "stopped", stop=stop, report=report)
    assert told == [1, 2, 3] and torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)["step"] == 3
    again = run(tmp_path / "stopped", report=report)
    assert told == [1, 2, 3, 4, 5, 6] and all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, stop_after=2)
    held = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_, **__):
        raise RuntimeError("unexpected pos 576 vs 534")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="checkpoint.pt could not be written, is the disk"),
    ):
        patch.setattr(torch, "save", full)
        run(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == held and not list(tmp_path.glob(".*"))


def test_what_cannot_be_read_is_named_by_workers_too(tmp_path):
    class Damaged:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int):
            raise DataError("cannot read image there/7.png: truncated")

    mixture = Mixture([pictures()], [1.0], augment=PLAIN)
    mixture.collections = [Damaged()]
    model = registry.build("test_tiny", weights=False)
    with pytest.raises(DataError, match="^cannot read image there/7.png: truncated$"):
        train(model, recipe(), mixture, tmp_path, workers=1, initialise=Localised())


def test_validation_sees_the_average_and_leaves_the_model_alone(tmp_path):
    seen = []

    def validate(model) -> dict[str, float]:
        seen.append(model.training)
        return {"number": 0.25}

    assert all(
        torch.equal(a, b)
        for a, b in zip(run(tmp_path / "a").values(), run(tmp_path / "b", validate=validate, validate_every=2).values())
    )
    assert seen == [False, False, False]
    rows = list(csv.DictReader(open(tmp_path / "b" / "validation.csv")))
    assert rows == [{"step": str(step), "number": "0.25000"} for step in (2, 4, 6)]


def test_a_run_ends_when_its_patience_does_and_stays_ended(tmp_path):
    scores = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.9}
    seen = []

    def patient(patience: int) -> list[int]:
        model = registry.build("test_tiny", weights=False)
        mixture = Mixture([pictures()], [1.0], augment=PLAIN)
        steps: list[int] = []

        def validate(model) -> dict[str, float]:
            seen.append(len(seen) + 1)
            return {"score": scores.get(seen[-1], 0.0)}

        train(
            model, replace(recipe(), patience=patience), mixture, tmp_path, workers=0, initialise=Localised(),
            validate=validate, validate_every=1, report=lambda told: steps.append(told.step),
        )  # fmt: skip
        return steps

    assert patient(2) == [1, 2, 3, 4]  # the third and the fourth brought nothing better than the second
    assert best_validation(tmp_path / "validation.csv") == (2, 0.3, 2)
    assert patient(2) == []
    assert patient(3) == [5, 6], "more patience is no other run"
    with pytest.raises(RecipeError, match="patience 2 counts validations, and this run has none"):
        train(None, replace(recipe(), patience=2), None, tmp_path)
    with pytest.raises(RecipeError, match="patience is a number of validations, or 0 for none, not -1"):
        replace(recipe(), patience=-1)


def test_a_loss_that_is_not_finite_is_skipped_and_the_third_in_a_row_ends_the_run(tmp_path, monkeypatch):
    steps = []
    forward = Rollout.forward

    def broken(self, *args, **options):
        losses = forward(self, *args, **options)
        steps.append(len(steps))
        factor = float("nan") if steps[-1] in (0, 3, 5, 7) else 1.0
        return {name: value * factor for name, value in losses.items()}

    monkeypatch.setattr(Rollout, "forward", broken)
    with pytest.raises(FloatingPointError, match="3 non-finite losses in a row"):
        run(tmp_path)
    assert steps[-1] == 8  # five steps, and once more for each that is written down
    written = json.loads((tmp_path / "nonfinite_4.json").read_text())
    assert written["stage"] == "clicks" and len(written["sources"]) == 2
    assert np.array(written["prompts"][0]["points"]).shape[::2] == (4, 2)


def test_gradients_reach_every_part_an_image_needs():
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False).train()
    init_localised(model)
    mixture = Mixture([pictures()], [1.0], augment=PLAIN)
    batch = collate([mixture.sample(0, index, size=128, objects=2) for index in range(4)])
    plan = PromptPlan(box=0.5, corrections=2, vary=False)
    Rollout(model)(batch, plan, LossWeights(), dense=0.5, key=(0, 1))["total"].backward()
    without = {
        name
        for name, parameter in model.named_parameters()
        if name.startswith(loop.IMAGE_PARTS) and (parameter.grad is None or not parameter.grad.any())
    }
    # a bias before a softmax over keys shifts all logits alike, and negative clicks may not have been drawn
    assert {name for name in without if not name.endswith("k_proj.bias")} <= {"prompt_encoder.label_embed.0.weight"}


def mosaics() -> torch.Tensor:
    """Four images of 16 x 16 squares in random colours."""
    squares = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8)
    return squares.repeat_interleave(16, 2).repeat_interleave(16, 3)


def test_attention_starts_at_the_click():
    """The first attention of a mask token to the image, before any training and after the trunk has changed."""
    torch.manual_seed(0)
    model = registry.build("sam2core_nano", weights=False, image_size=256).eval()
    init_localised(model)

    def share_at_click() -> float:
        seen: list[torch.Tensor] = []
        attention = model.mask_decoder.transformer.layers[0].token_to_image
        handle = attention.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
        pictures = (
            torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8).repeat_interleave(16, 2).repeat_interleave(16, 3)
        )
        points = torch.tensor([[[56.0, 72.0]], [[184.0, 40.0]], [[120.0, 120.0]], [[40.0, 200.0]]])
        with torch.no_grad():
            features = Rollout(model).encode(pictures)
            embedding = model.condition(features, None)
        with torch.enable_grad():  # otherwise attention is folded, and the module is not called
            model.decode(features, embedding, Prompt(points, torch.ones(4, 1, dtype=torch.int32)))
        handle.remove()
        with torch.no_grad():
            queries, keys = attention.q_proj(seen[0])[:, 2:6], attention.k_proj(seen[1])
            queries, keys = (each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (queries, keys))
            weights = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
        cells = (points[:, 0, 1] // 16 * 16 + points[:, 0, 0] // 16).long()
        return torch.stack([weights[row, :, :, cell].mean() for row, cell in enumerate(cells)]).mean().item()

    assert share_at_click() > 0.1  # 25 times an even share
    with torch.no_grad():
        model.neck.lateral[2].weight.mul_(30.0)
        drowned = share_at_click()
        pictures = (
            torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8).repeat_interleave(16, 2).repeat_interleave(16, 3)
        )
        init_localised_for(model, model.condition(Rollout(model).encode(pictures), None))
    assert share_at_click() > max(0.1, 2 * drowned)


def test_recipes_name_the_key_they_do_not_know():
    with pytest.raises(RecipeError, match=r"unknown key 'optim.rate'"):
        recipe(optim={"rate": 1})
    with pytest.raises(RecipeError, match=r"unknown key 'stages\[0\].prompts.click'"):
        recipe(stages=[{"name": "a", "steps": 1, "prompts": {"click": 1.0}}])
    assert recipe().stage_at(1).name == "dense" and recipe().stage_at(2).name == "clicks" and recipe().begins(2)
