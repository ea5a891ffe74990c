"""Simulated users click where they say they click."""

from __future__ import annotations

import pytest
import torch

from sam2core.training.prompting import PromptPlan, sample_box, sample_click, sample_correction
from sam2core.types import Label


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def blobs(count: int = 40, size: int = 32) -> torch.Tensor:
    """Random, ragged, non-empty masks; some have a single pixel."""
    draw = torch.Generator().manual_seed(1)
    masks = torch.rand(count, size, size, generator=draw) > torch.linspace(0.3, 0.99, count)[:, None, None]
    masks[0] = False
    masks[0, 5, 9] = True
    return masks


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_clicks_lie_in_their_region(generator, centre):
    masks = blobs()
    for _ in range(20):
        points = sample_click(masks, generator, centre=centre)
        assert points.shape == (40, 1, 2)
        x, y = points[:, 0].long().unbind(1)
        assert masks[torch.arange(40), y, x].all()


def test_central_clicks_are_deeper(generator):
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 8:56, 8:56] = True

    def spread(centre: float) -> float:
        points = torch.cat([sample_click(mask, generator, centre=centre) for _ in range(300)])
        return (points - 31.5).abs().amax(-1).mean().item()

    assert spread(1.0) < 0.93 * spread(0.0)


def test_corrections_lie_in_the_error_and_say_which(generator):
    target, answer = blobs(), blobs().flip(0)
    answer[3] = target[3]  # nothing to correct
    for _ in range(20):
        points, labels = sample_correction(answer, target, generator)
        x, y = points[:, 0].long().unbind(1)
        row = torch.arange(40)
        right = torch.arange(40) == 3
        assert ((answer ^ target)[row, y, x] | right).all()
        assert (target[row, y, x] == labels[:, 0].bool()).all()


def test_boxes_hold_their_object_but_for_the_jitter(generator):
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 20:41, 10:51] = True
    assert sample_box(mask, generator, jitter=0.0)[0].tolist() == [[10.0, 20.0], [50.0, 40.0]]
    for _ in range(50):
        box = sample_box(mask, generator)[0]
        assert ((box - torch.tensor([[10.0, 20.0], [50.0, 40.0]])).abs() <= torch.tensor([4.0, 2.0])).all()


def test_a_plan_mixes_clicks_and_boxes_per_object(generator):
    prompt = PromptPlan(box=0.5).first(blobs(), generator)
    boxed = prompt.labels[:, 0] == Label.TOP_LEFT
    assert 5 < boxed.sum() < 35
    assert (prompt.labels[boxed, 1] == Label.BOTTOM_RIGHT).all()
    assert (prompt.labels[~boxed] == torch.tensor([Label.POSITIVE, Label.IGNORED])).all()
    assert PromptPlan().first(blobs(), generator).labels.unique().tolist() == [Label.POSITIVE]


def test_the_number_of_corrections_follows_the_plan(generator):
    assert {PromptPlan().steps(generator) for _ in range(20)} == {0}
    assert {PromptPlan(corrections=2).steps(generator) for _ in range(50)} == {1, 2}
    assert {PromptPlan(corrections=2, correct=0.5).steps(generator) for _ in range(50)} == {0, 1, 2}
