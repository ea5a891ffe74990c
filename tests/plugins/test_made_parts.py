"""A part of every kind that a model is made of, as the guide has it written, does all that a model does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import registry
from registry.kinds import KINDS
from sam2core.cli.skeleton import write_skeleton
from sam2core.cli.train_data import initialisation
from sam2core.testing import check
from sam2core.testing.fixtures import isolated_registry  # noqa: F401
from sam2core.training.augment import Augment, Mixture
from sam2core.training.loop import train
from sam2core.training.recipe import Recipe
from tests.training.job import squares

TOOLS = ("predictor", "engine", "detector", "writer", "layout")
"""Kinds that are no part of a model; the tests that their packages come with use them."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TOOLS])
def test_it_segments_tracks_learns_and_comes_back_from_a_file(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    isolated_registry: Any,  # noqa: F811
) -> None:
    name, package = f"made-{kind.replace('_', '-')}", f"made_{kind}"
    write_skeleton(name, kind, tmp_path)
    monkeypatch.syspath_prepend(tmp_path / name)
    isolated_registry(package)
    (part,) = (each for each in registry.components(kind) if each.startswith("made."))
    check(kind, part)

    options = (
        {"frames": 2, "object_pointers": 4} if kind == "memory_policy" else {}
    )  # as far as the tiny model remembers
    parts = {} if kind == "initialisation" else {kind: {"type": part, **options}}
    start = part if kind == "initialisation" else "fresh"
    torch.manual_seed(0)
    fresh = registry.build("test_tiny", weights=False, **parts)
    began = {key: value.clone() for key, value in fresh.state_dict().items()}
    recipe = one_step(start)
    model = train(
        fresh,
        recipe,
        Mixture([squares()], [1.0], augment=Augment()),
        tmp_path / "run",
        initialise=initialisation(recipe),
    )
    state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    assert all(value.isfinite().all() for value in state.values())
    own = [key for key in state if key.startswith(f"{kind}.")]
    assert not own or any(not torch.equal(state[key], began[key]) for key in own)

    save_file(state, tmp_path / "made.safetensors")
    again = registry.build("test_tiny", weights=tmp_path / "made.safetensors", **parts)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert all(answer.isfinite().all() for answer in answers(again))
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        del sys.modules[module]


def one_step(start: str) -> Recipe:
    prompts = {"mask": 0.4, "box": 0.4, "prompted": 1, "corrected": 1, "corrections": 1}
    stage = {"name": "all", "steps": 1, "size": 64, "frames": 2, "batch": 1, "objects": 2, "prompts": prompts}
    return Recipe.read(
        {
            "model": "test_tiny",
            "start": start,
            "sources": [{"path": "-", "reader": "label_folder"}],
            "stages": [stage],
            "optim": {"warmup": 0, "lr": 1e-3},
            "precision": "full",
        }
    )


def answers(model: Any) -> list[torch.Tensor]:
    """What an image, its automatic masks and a video get from a model."""
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8))
    image = registry.predictor(model).encode(frames[0]).predict(points=[[20, 20]], box=[5, 5, 50, 40])
    session = registry.predictor(model, "video").open(frames)
    session.prompt(0, "thing", box=[5, 5, 50, 40])
    tracked = [result.logits for result in session.propagate()]
    found = registry.predictor(model, "automask", points_per_side=2, iou_threshold=0.0, stability_threshold=0.0)
    masks = [torch.tensor(mask.box) for mask in found.generate(frames[0])]
    assert len(tracked) == len(frames)
    return [image.logits, *tracked, *masks]
