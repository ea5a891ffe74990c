"""One mask or three, and the fallback from an unstable single mask."""

from __future__ import annotations

import torch

from sam2core.heads.select import Stability, candidates
from sam2core.types import DecoderOutput, Multimask


def output(masks, iou=None):
    batch = masks.shape[0]
    iou = torch.rand(batch, 4) if iou is None else iou
    return DecoderOutput(masks, iou, torch.randn(batch, 4, 8), torch.ones(batch, 1))


def test_several_are_the_last_three_with_their_own_tokens():
    given = output(torch.randn(2, 4, 5, 6))
    masks, iou, tokens = candidates(given, multimask_output=True, stability=Stability())
    assert torch.equal(masks, given.masks[:, 1:])
    assert torch.equal(iou, given.iou[:, 1:])
    assert torch.equal(tokens, given.tokens[:, 1:])


def test_a_stable_single_mask_is_kept():
    given = output(10 * torch.randn(2, 4, 8, 8).sign())
    masks, iou, tokens = candidates(given, multimask_output=False, stability=Stability())
    assert torch.equal(masks, given.masks[:, :1]) and torch.equal(iou, given.iou[:, :1])
    assert torch.equal(tokens, given.tokens[:, :1])


def test_an_unstable_one_is_replaced_but_for_its_token():
    masks = torch.randn(2, 4, 8, 8)
    masks[0, 0] = 0.0  # all of it between the thresholds
    masks[1, 0] = 10.0
    given = output(masks, torch.tensor([[0.9, 0.1, 0.7, 0.7], [0.2, 0.9, 0.9, 0.9]]))
    found, iou, tokens = candidates(given, multimask_output=False, stability=Stability())
    assert torch.equal(found[0, 0], masks[0, 2]) and iou[0, 0] == given.iou[0, 2]  # the first of a tie
    assert torch.equal(found[1, 0], masks[1, 0]) and iou[1, 0] == given.iou[1, 0]
    assert torch.equal(tokens, given.tokens[:, :1])


def test_without_stability_the_single_mask_stands():
    given = output(torch.zeros(1, 4, 8, 8))
    assert torch.equal(candidates(given, multimask_output=False)[1], given.iou[:, :1])


def test_an_empty_mask_is_stable():
    given = output(torch.full((1, 4, 8, 8), -5.0))
    assert torch.equal(candidates(given, multimask_output=False, stability=Stability())[1], given.iou[:, :1])


def test_the_number_of_points_decides():
    rule = Multimask()
    assert [rule.applies(points, tracking=False) for points in range(4)] == [True, True, False, False]
    assert rule.applies(0, tracking=True) and not Multimask(while_tracking=False).applies(0, tracking=True)
    assert not Multimask(min_points=1).applies(0, tracking=False)
