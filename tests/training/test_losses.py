"""Loss values on cases computed by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sam2core.training.losses import (
    LossWeights,
    bce_loss,
    dice_loss,
    focal_loss,
    hard_iou,
    mask_loss,
    soft_target,
    step_losses,
    upstream_losses,
)
from tests.golden.record_losses import CASES, TARGET, inputs


def test_bce_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [2.0, -2.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    wanted = (2 * math.log(2) + 2 * math.log(1 + math.exp(-2))) / 4
    assert bce_loss(logits, target).item() == pytest.approx(wanted, rel=1e-6)


def test_dice_by_hand():
    logits = torch.tensor([[[100.0, 100.0], [-100.0, -100.0]]])
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - 3 / 5)  # (2 * 1 + 1) / (2 + 2 + 1)
    assert dice_loss(logits, (logits > 0).float()).item() == pytest.approx(0.0, abs=1e-6)


def test_focal_by_hand_and_without_focus():
    logits, target = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]])
    p = 1 / (1 + math.exp(-3))
    wanted = (0.25 * 0.5**2 * math.log(2) + 0.75 * p**2 * -math.log(1 - p)) / 2
    assert focal_loss(logits, target).item() == pytest.approx(wanted, rel=1e-5)
    half = focal_loss(logits, target, alpha=0.5, gamma=0.0)
    assert torch.allclose(half, 0.5 * bce_loss(logits, target))


def test_iou_of_an_empty_union_is_zero():
    empty = torch.full((1, 2, 2), -1.0)
    assert hard_iou(empty, torch.zeros(1, 2, 2)).item() == 0.0
    assert hard_iou(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])).item() == 0.5


def test_soft_target_is_covered_area():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 1, :2, :4] = True
    target = soft_target(masks, (2, 2))
    assert target.shape == (1, 2, 2, 2)
    assert target[0, 0].sum() == 0
    assert target[0, 1].tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_one_click_teaches_the_best_of_three_and_a_box_teaches_mask_zero():
    target = torch.zeros(2, 4, 4)
    target[:, :2] = 1
    good, bad = 8 * (target[0] * 2 - 1), -8 * (target[0] * 2 - 1)
    masks = torch.stack([torch.stack([bad, bad, good, bad]), torch.stack([good, bad, bad, bad])])
    weights = LossWeights(single=0.0, spread=0.0)
    losses = step_losses(
        masks, torch.zeros(2, 4), torch.full((2, 1), 50.0), target, torch.tensor([True, False]), weights
    )
    losses = {name: value.mean() for name, value in losses.items()}
    assert losses["mask"].item() == pytest.approx(mask_loss(good, target[0], weights).item(), rel=1e-5)
    assert losses["object_score"].item() == pytest.approx(0.0, abs=1e-6)
    assert losses["iou"].item() == pytest.approx(2 / 8)  # two of eight masks are right, all were given 0


def test_the_best_of_three_has_a_weight_of_its_own_where_mask_zero_answers():
    masks, target = torch.randn(2, 4, 8, 8), (torch.rand(2, 8, 8) > 0.5).float()
    rest = (torch.zeros(2, 4), torch.zeros(2, 1), target, torch.tensor([True, False]))
    plain = step_losses(masks, *rest, LossWeights(single=2.0, best=0.0))["mask"]
    each = mask_loss(masks, target[:, None].expand_as(masks), LossWeights())
    assert plain[0] == pytest.approx(float(each[0, 1:].min() + 2 * each[0, 0]))
    assert plain[1] == pytest.approx(float(each[1, 0]))
    alike = step_losses(masks, *rest, LossWeights(single=2.0))["mask"]
    assert alike[1] == pytest.approx(float(each[1, 0] + 2 * each[1, 1:].min()))


def test_every_mask_gets_a_gradient():
    masks = torch.randn(3, 4, 8, 8, requires_grad=True)
    target = torch.rand(3, 8, 8).round()
    losses = step_losses(
        masks, torch.rand(3, 4), torch.zeros(3, 1), target, torch.ones(3, dtype=torch.bool), LossWeights()
    )
    losses["total"].sum().backward()
    assert (masks.grad.abs().flatten(2).sum(-1) > 0).all()


def test_of_an_absent_object_only_the_object_score_is_taught():
    masks = torch.randn(2, 4, 8, 8, requires_grad=True)
    object_score = torch.zeros(2, 1, requires_grad=True)
    target = torch.zeros(2, 8, 8)
    target[0, :4] = 1
    losses = step_losses(masks, torch.rand(2, 4), object_score, target, torch.ones(2, dtype=torch.bool), LossWeights())
    assert losses["mask"][1] == losses["spread"][1] == losses["iou"][1] == 0 and losses["mask"][0] > 0
    losses["total"].sum().backward()
    assert not masks.grad[1].any() and object_score.grad[0] < 0 < object_score.grad[1]


@pytest.mark.parametrize("case", CASES)
def test_upstreams_loss_to_the_fifth_digit(case):
    wanted = json.loads(TARGET.read_text())[case]
    weights = LossWeights(bce=0.0, focal=20.0, dice=1.0, iou=1.0, object_score=1.0, compat="upstream")
    target, steps = inputs(case)
    found = [upstream_losses(logits, iou, object_score, target, weights) for logits, iou, object_score in steps]
    names = {
        "focal": "loss_mask",
        "dice": "loss_dice",
        "iou": "loss_iou",
        "object_score": "loss_class",
        "total": "core_loss",
    }
    for name, theirs in names.items():
        ours = sum(each[name].sum() for each in found) / len(target)
        assert float(ours) == pytest.approx(wanted[theirs], rel=1e-5, abs=1e-5)


def test_an_unknown_compatibility_is_refused():
    with pytest.raises(ValueError, match="compat is '' or 'upstream'"):
        LossWeights(compat="meta")
