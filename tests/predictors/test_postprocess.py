"""Cleaning masks: holes, islands, the largest region; sharpening them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sam2core.ops import regions
from sam2core.predictors.postprocess import Cleaning, Clicks, sharpen


def drawing() -> torch.Tensor:
    """A 12 x 12 square with a hole of 4 pixels and a hole of 1, an island of 3 pixels; logits of +-2."""
    mask = torch.zeros(1, 1, 24, 24, dtype=torch.bool)
    mask[..., 4:16, 4:16] = True
    mask[..., 6:8, 6:8] = False
    mask[..., 10, 10] = False
    mask[..., 20, 18:21] = True
    return torch.where(mask, 2.0, -2.0)


def test_holes_up_to_an_area_are_filled():
    logits = drawing()
    filled = Cleaning(fill_holes=1)(logits)
    assert filled[0, 0, 10, 10] == 10 and (filled[0, 0, 6:8, 6:8] == -2).all()
    filled = Cleaning(fill_holes=4)(logits)
    assert (filled[0, 0, 4:16, 4:16] > 0).all() and (filled[0, 0, 0] == -2).all()


def test_islands_up_to_an_area_are_dropped():
    logits = drawing()
    assert Cleaning(drop_islands=2)(logits)[0, 0, 20, 19] == 2
    clean = Cleaning(drop_islands=3)(logits)
    assert (clean[0, 0, 20, 18:21] == -10).all() and clean[0, 0, 5, 5] == 2


def test_both_are_judged_on_the_mask_as_it_came():
    logits = torch.full((1, 1, 9, 9), -1.0)
    logits[..., 3:6, 3:6] = 1.0
    logits[..., 4, 4] = -1.0  # a ring of 8 around a hole of 1
    clean = Cleaning(fill_holes=1, drop_islands=8)(logits)
    assert clean[0, 0, 4, 4] == 10 and clean[0, 0, 3, 3] == -10


def test_keep_largest():
    clean = Cleaning(keep_largest=True)(drawing())
    assert (clean[0, 0, 20, 18:21] < 0).all() and clean[0, 0, 5, 5] == 2
    nothing = torch.full((2, 1, 5, 5), -1.0)
    assert torch.equal(Cleaning(keep_largest=True)(nothing), nothing)


def test_threshold_moves_the_line():
    logits = drawing()
    assert torch.equal(Cleaning(fill_holes=8, threshold=-3.0)(logits), logits)
    assert Cleaning(fill_holes=1, threshold=1.0)(logits)[0, 0, 10, 10] == 11


def test_nothing_asked_nothing_changed():
    logits = drawing()
    assert Cleaning()(logits) is logits


def test_a_negative_area_is_refused():
    with pytest.raises(ValueError, match="fill_holes"):
        Cleaning(fill_holes=-1)


def test_masks_of_a_batch_do_not_touch():
    mask = torch.ones(2, 3, 4, 4, dtype=torch.bool)
    labels, areas = regions.connected_components(mask)
    assert (areas == 16).all()
    assert len(labels.unique()) == 6


def test_only_the_regions_that_were_clicked():
    mask = drawing() > 0
    both = mask.expand(2, 2, -1, -1).clone()
    both[1, 1] = False
    places = torch.tensor([[[5.6, 5.2], [0.0, 0.0]], [[19.0, 20.9], [5.0, 5.0]]])
    kept = regions.holding(both, places, torch.tensor([[True, False], [True, False]]))
    assert kept[0, 0, 5, 5] and not kept[0, 0, 20, 19]
    assert not kept[1, 0, 5, 5] and kept[1, 0, 20, 19]
    assert not kept[1, 1].any()
    nobody = regions.holding(both, places, torch.tensor([[False, True], [False, False]]))  # a click on no region
    assert not nobody.any()
    assert not regions.holding(both, places[:, :0], torch.zeros(2, 0, dtype=torch.bool)).any()


def test_what_is_clicked_is_no_island():
    logits, chain = drawing(), Cleaning(fill_holes=1, drop_islands=3, keep_clicked=True)
    size, positive = (24, 24), torch.tensor([[1]])
    island = chain(logits, Clicks(torch.tensor([[[19.0, 20.0]]]), positive, size)) > 0
    assert island.sum() == 3 and island[0, 0, 20, 18:21].all()
    square = chain(logits, Clicks(torch.tensor([[[10.4, 10.9]]]), positive, size)) > 0  # in the hole that is filled
    assert square.sum() == 144 - 4 and square[0, 0, 10, 10]
    missed = Clicks(torch.tensor([[[0.0, 0.0]]]), positive, size)
    assert torch.equal(chain(logits, missed), chain(logits))
    for clicks in (missed, Clicks(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int32), size)):
        assert torch.equal(Cleaning(keep_clicked=True)(logits, clicks), logits)
    logits[..., 4:16, 4:16] = -2.0  # a mask that is nothing but the island
    assert not (chain(logits) > 0).any()
    assert torch.equal(chain(logits, missed), logits)


def test_clicks_matter_to_the_step_that_asks_for_them_alone():
    logits = drawing()
    clicks = Clicks(torch.tensor([[[76.0, 80.0], [20.0, 20.0]]]), torch.tensor([[1, 0]]), (96, 96))
    places, positive = clicks.on(logits)
    assert places.tolist() == [[[19.0, 20.0], [5.0, 5.0]]] and positive.tolist() == [[True, False]]
    assert torch.equal(Cleaning()(logits, clicks), logits)
    assert (Cleaning(keep_clicked=True)(logits, clicks) > 0).sum() == 3


def test_options_edit_the_chain_and_wrong_ones_are_named():
    chain = Cleaning(fill_holes=8, filled=0.1)
    assert chain.edited(None) == chain
    assert chain.edited({"keep_clicked": True}) == Cleaning(fill_holes=8, filled=0.1, keep_clicked=True)
    for steps, message in (
        ({"fil_holes": 3}, "cleaning takes no 'fil_holes'.*did you mean 'fill_holes'"),
        ({"max_hole_area": 3}, "ours is fill_holes"),
        ({"fill_holes": "3"}, "fill_holes is int, not '3'"),
        ({"keep_clicked": 3}, "keep_clicked is bool, not 3"),
        ({"drop_islands": -2}, "drop_islands is an area in low-resolution pixels, 0 or more, not -2"),
    ):
        with pytest.raises(ValueError, match=message):
            chain.edited(steps)


def test_sharpening_finds_the_edges_of_the_picture():
    y, x = np.mgrid[:256, :192]
    disc = (y - 120.3) ** 2 + (x - 90.7) ** 2 < 50**2
    disc |= abs(y - 120.3 - 0.7 * (x - 90.7)) < 3  # and a thin thing across the whole image
    picture = np.where(disc[..., None], np.uint8([200, 80, 60]), np.uint8([70, 90, 130]))
    rough = F.interpolate(torch.from_numpy(disc)[None, None].float(), (32, 24), mode="bilinear", antialias=True)
    logits = (rough - 0.5) * 10

    def agreement(mask: torch.Tensor) -> float:
        mask = mask[0, 0].numpy() > 0
        return (mask & disc).sum() / (mask | disc).sum()

    plain = agreement(F.interpolate(logits, disc.shape, mode="bilinear"))
    sharp = sharpen(logits, picture)
    assert sharp.shape == (1, 1, 256, 192) and sharp.dtype == torch.float32
    assert plain < 0.93 < 0.97 < agreement(sharp)
    with pytest.raises(ValueError, match="B, M, h, w"):
        sharpen(logits[0], picture)
    for wrong in ({"radius": 0}, {"epsilon": 0.0}):
        with pytest.raises(ValueError, match="radius must be at least 1 and epsilon above 0"):
            sharpen(logits, picture, **wrong)
