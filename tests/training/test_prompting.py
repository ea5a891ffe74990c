"""Simulated users click where they say they click."""

from __future__ import annotations

import pytest
import torch

from sam2core.training.prompting import PromptPlan, sample_box, sample_click, sample_correction
from sam2core.training.seeded_random import SeededRandom
from sam2core.types import Label


class Endless:
    """New draws each time they are asked for."""

    def __init__(self, rows: int):
        self.rows, self.count = range(rows), 0

    def __call__(self) -> SeededRandom:
        self.count += 1
        return SeededRandom((7, self.count), self.rows)


@pytest.fixture
def chance() -> Endless:
    return Endless(40)


def blobs(count: int = 40, size: int = 32) -> torch.Tensor:
    """Random, ragged, non-empty masks; some have a single pixel."""
    draw = torch.Generator().manual_seed(1)
    masks = torch.rand(count, size, size, generator=draw) > torch.linspace(0.3, 0.99, count)[:, None, None]
    masks[0] = False
    masks[0, 5, 9] = True
    return masks


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_clicks_lie_in_their_region(chance, centre):
    masks = blobs()
    for _ in range(20):
        points = sample_click(masks, chance(), centre=centre)
        assert points.shape == (40, 1, 2)
        x, y = points[:, 0].long().unbind(1)
        assert masks[torch.arange(40), y, x].all()


def test_central_clicks_are_deeper():
    one = Endless(1)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 8:56, 8:56] = True

    def spread(centre: float) -> float:
        points = torch.cat([sample_click(mask, one(), centre=centre) for _ in range(300)])
        return (points - 31.5).abs().amax(-1).mean().item()

    assert spread(1.0) < 0.93 * spread(0.0)


def test_corrections_lie_in_the_error_and_say_which(chance):
    target, answer = blobs(), blobs().flip(0)
    answer[3] = target[3]  # nothing to correct
    for _ in range(20):
        points, labels = sample_correction(answer, target, chance())
        x, y = points[:, 0].long().unbind(1)
        row = torch.arange(40)
        right = torch.arange(40) == 3
        assert ((answer ^ target)[row, y, x] | right).all()
        assert (target[row, y, x] == labels[:, 0].bool()).all()


def test_boxes_hold_their_object_but_for_the_jitter():
    one = Endless(1)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 20:41, 10:51] = True
    assert sample_box(mask, one(), jitter=0.0)[0].tolist() == [[10.0, 20.0], [50.0, 40.0]]
    for _ in range(50):
        box = sample_box(mask, one())[0]
        assert ((box - torch.tensor([[10.0, 20.0], [50.0, 40.0]])).abs() <= torch.tensor([4.0, 2.0])).all()


def test_a_plan_mixes_clicks_and_boxes_per_object(chance):
    prompt = PromptPlan(box=0.5).first(blobs(), chance())
    boxed = prompt.labels[:, 0] == Label.TOP_LEFT
    assert 5 < boxed.sum() < 35
    assert (prompt.labels[boxed, 1] == Label.BOTTOM_RIGHT).all()
    assert (prompt.labels[~boxed] == torch.tensor([Label.POSITIVE, Label.IGNORED])).all()
    assert PromptPlan().first(blobs(), chance()).labels.unique().tolist() == [Label.POSITIVE]


def test_absent_objects_get_a_negative_click_and_no_box(chance):
    masks = blobs()
    masks[10:] = False
    prompt = PromptPlan(box=1.0).first(masks, chance())
    assert (prompt.labels[10:] == torch.tensor([Label.NEGATIVE, Label.IGNORED])).all()
    assert (prompt.labels[:10, 0] == Label.TOP_LEFT).all() and prompt.ragged
    points, labels = sample_correction(masks, masks, chance())
    assert labels[:10].all() and not labels[10:].any()


def test_the_schedule_follows_the_plan():
    def schedules(plan: PromptPlan, frames: int = 6, entry: int = 0, before: bool = True):
        return [plan.schedule(frames, entry, SeededRandom((0, n), [0]), before=before) for n in range(60)]

    for one in schedules(PromptPlan(), entry=2):
        assert one.prompted == (2,) and one.rest == (0, 1, 3, 4, 5) and one.corrections == {}
    assert schedules(PromptPlan(), entry=2, before=False)[0].order == (2, 3, 4, 5)
    many = schedules(PromptPlan(prompted=2, corrected=3, corrections=2, correct=0.7), entry=1)
    assert {len(one.prompted) for one in many} == {1, 2} and all(one.prompted[0] == 1 for one in many)
    assert all(sorted(one.order) == list(range(6)) and min(one.prompted) == 1 for one in many)
    assert {len(one.corrections) for one in many} == {0, 1, 2, 3}
    assert all(set(one.prompted) <= set(one.corrections) for one in many if one.corrections)
    assert {clicks for one in many for clicks in one.corrections.values()} == {1, 2}
    fixed = schedules(PromptPlan(corrections=7, vary=False), frames=1)
    assert all(one.corrections == {0: 7} for one in fixed)
    masked = PromptPlan(mask=0.5).masked(SeededRandom((0, 0), range(400)), frames=4)
    assert 150 < masked.sum() < 250
    assert not PromptPlan(mask=1.0).masked(SeededRandom((0, 0), range(9)), frames=1).any()


def test_draws_belong_to_their_row_and_their_purpose_alone():
    whole, part = SeededRandom((3, 4), range(10)), SeededRandom((3, 4), [7, 2])
    assert torch.equal(whole.uniform(5, count=3)[[7, 2]], part.uniform(5, count=3))
    assert torch.equal(whole.of(torch.tensor([7, 2])).at(5).uniform(1), part.uniform(5, 1))
    assert not torch.equal(whole.uniform(5), whole.uniform(6))
    assert SeededRandom((3,), []).uniform(1, count=2).shape == (
        0,
        2,
    )
    assert whole.shared(1).random() == part.shared(1).random()
