"""Pixels that are not counted: from the label to the loss, and nowhere a click."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam2core.data.formats import open_data
from sam2core.evaluation.clicks import click_through
from sam2core.training.augment import Augment, Mixture
from sam2core.training.clips import VOID, Clip, collate, divide, label_folder
from sam2core.training.filming import Filming, film
from sam2core.training.losses import LossWeights, judged, step_losses, upstream_losses
from tests.data import made

QUIET = Augment(zoom=(1.0, 1.0), stretch=1.0, whole=1.0, paste=0.0, shapes=0.0, colour=0.0, grey=0, blur=0, noise=0)


@pytest.fixture
def folder(tmp_path):
    return made.label_folder(tmp_path / "a", void=True)


@pytest.mark.parametrize("frames", [1, 3])
def test_they_come_along_with_pictures_and_clips_of_them(folder, frames):
    pictures = list(label_folder(folder, instances=True))
    assert (pictures[0].regions == VOID).sum() == 4 * 40 and len(pictures[0].objects) == 2
    clip = Mixture([pictures], [1.0], augment=QUIET).sample(0, 0, size=64, objects=2, frames=frames)
    assert clip.ignored is not None and clip.ignored.shape == clip.masks.shape[:1] + clip.masks.shape[2:]
    assert clip.ignored.any() and not (clip.ignored[:, None] & clip.masks).any()


def test_they_come_along_with_footage(folder):
    (item, *_) = open_data(folder).footage
    for mosaic in (0.0, 1.0):
        filming = Filming(mosaic=mosaic, rotate=0.0, shear=0.0)
        clip = film(item, 1, np.random.default_rng(0), size=64, objects=2, min_area=0.0, filming=filming)
        assert clip is not None and clip.masks.shape[1] == 2 and clip.ignored is not None and clip.ignored.any()


def test_batches_keep_them():
    empty = np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 1, 8, 8), bool)
    void = np.zeros((1, 8, 8), bool)
    void[:, :2] = True
    assert collate([Clip(*empty), Clip(*empty)]).ignored is None
    batch = collate([Clip(*empty), Clip(*empty, ignored=void)])
    assert batch.ignored is not None and batch.ignored.sum() == 16
    assert [part.ignored.sum().item() for part in batch.to("cpu").split(2)] == [0, 16]


@pytest.mark.parametrize("compat", ["", "upstream"])
def test_no_loss_and_no_gradient_comes_from_them(compat):
    torch.manual_seed(0)
    target = torch.zeros(2, 16, 16)
    target[:, 4:12, 4:12] = 1
    ignored = torch.zeros(2, 16, 16, dtype=torch.bool)
    ignored[:, 12:] = True
    iou, presence = torch.zeros(2, 4), torch.zeros(2, 1)

    def losses(logits):
        if compat:
            return upstream_losses(logits, iou, presence, target > 0.5, LossWeights(focal=20.0, compat=compat), ignored)
        return step_losses(logits, iou, presence, target, torch.tensor([True, False]), LossWeights(), ignored)

    logits = torch.randn(2, 4, 16, 16, requires_grad=True)
    total = losses(logits)["total"].sum()
    total.backward()
    assert logits.grad is not None and not logits.grad[:, :, 12:].any() and logits.grad[:, :, :12].any()
    other = logits.detach().clone()
    other[:, :, 12:] = 50 * torch.randn(2, 4, 4, 16)
    assert torch.equal(losses(other)["total"].sum(), total.detach())


def test_without_them_nothing_changes():
    logits, target = torch.randn(1, 4, 8, 8), torch.rand(1, 4, 8, 8)
    same = judged(logits, target, None)
    assert same[0] is logits and same[1] is target


def test_clicks_and_scores_pass_them_over(folder):
    (item, *_) = open_data(folder).footage
    truth, ignored = item.read(0)[1], item.ignored(0)
    assert ignored is not None
    found = click_through(lambda clicks, state: (truth | ignored, None), truth, clicks=3, ignored=ignored)
    assert found.scores == (1.0, 1.0, 1.0) and len(found.clicks) == 1
    assert click_through(lambda clicks, state: (truth | ignored, None), truth, clicks=1).scores[0] < 1
    assert divide(item, instances=True).regions.max() == VOID
