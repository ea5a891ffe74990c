"""Images divided without masks: regions follow boundaries and nest; what is pasted from where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam2core.training.augment import Augment, Canvas, Mixture, paste_object
from sam2core.training.clips import DataError, LabelledImage
from sam2core.training.partition import divide, lab
from sam2core.training.readers import READERS


def scene(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A noisy image: sky, ground, and a house with a door of another colour."""
    rng = np.random.default_rng(seed)
    parts = {name: np.zeros((120, 160), bool) for name in ("sky", "house", "door")}
    parts["sky"][:60] = True
    parts["house"][40:100, 50:110] = True
    parts["door"][60:95, 60:85] = True
    picture = np.full((120, 160, 3), (90, 140, 60), np.float32)
    for name, colour in (("sky", (130, 170, 230)), ("house", (200, 90, 80)), ("door", (240, 150, 90))):
        picture[parts[name]] = colour
    parts["sky"] &= ~parts["house"]
    picture, parts = enlarge(picture), {name: enlarge(mask) for name, mask in parts.items()}
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8), parts


def enlarge(values: np.ndarray) -> np.ndarray:
    return values.repeat(2, 0).repeat(2, 1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_regions_follow_boundaries_and_nest():
    picture, parts = scene()
    regions, objects = divide(picture)
    masks = [np.isin(regions, group) for group in objects]
    for name in ("sky", "house", "door"):
        assert max(overlap(mask, parts[name]) for mask in masks) > 0.85, name
    for a in masks:  # one in another or apart, never across
        assert all(not (a & b).any() or (a & b).sum() == min(a.sum(), b.sum()) for b in masks)
    assert len(set(objects)) == len(objects)


def test_sizes_number_and_repetition():
    picture, _ = scene(1)
    regions, objects = divide(picture, most=3, areas=(0.05, 0.5))
    assert 1 <= len(objects) <= 3
    assert all(0.05 <= np.isin(regions, group).mean() <= 0.5 for group in objects)
    again, same = divide(picture, most=3, areas=(0.05, 0.5))
    assert np.array_equal(regions, again) and objects == same


def test_what_lies_outside_is_in_no_object():
    picture, parts = scene()
    inside = parts["house"]
    regions, objects = divide(picture, inside=inside)
    assert objects and not regions[~inside].any()


def test_lab_of_known_colours():
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]]
    assert lab(colours)[0] == pytest.approx(np.array(expected), abs=0.1)


def test_photographs_reads_tiles_and_says_what_stands_alone(tmp_path):
    picture, _ = scene()
    Image.fromarray(picture).save(tmp_path / "a.png")
    whole = list(READERS["photographs"](tmp_path, side=160))
    assert [one.image.shape for one in whole] == [(120, 160, 3)]
    assert any(whole[0].things) and not all(whole[0].things)
    assert len(list(READERS["photographs"](tmp_path, side=160, tiles=2))) == 5
    with pytest.raises(DataError, match="no image"):
        next(READERS["photographs"](tmp_path, names=["b.png"]))


def test_drawings_are_things_with_parts(tmp_path):
    picture, parts = scene()
    alpha = (parts["house"] * 255).astype(np.uint8)
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "a.png")
    (found,) = READERS["drawings"](tmp_path)
    assert found.things[0] and not any(found.things[1:])
    assert overlap(np.isin(found.regions, found.objects[0]), alpha > 0) > 0.98
    assert len(found.objects) > 1


def flat(value: int) -> LabelledImage:
    regions = np.zeros((64, 64), np.uint16)
    regions[8:56, 8:56] = 1
    regions[20:40, 20:40] = 2
    return LabelledImage(np.full((64, 64, 3), value, np.uint8), regions, ((1, 2), (2,)), (True, False), str(value))


def test_things_are_pasted_by_the_weight_of_their_source():
    collections = [[flat(10)], [flat(20), flat(30)]]
    mixture = Mixture(collections, [1.0, 1.0], pasting=[0.0, 1.0])
    rng = np.random.default_rng(0)
    assert {mixture._cut_out(rng)[0].source for _ in range(40)} == {"20", "30"}
    with pytest.raises(ValueError, match="source 1 are to be pasted"):
        bare = LabelledImage(flat(1).image, flat(1).regions, ((1,),), (False,), "")
        Mixture([[flat(10)], [bare]], [1.0, 1.0], pasting=[0.5, 0.5])


def test_a_retextured_thing_keeps_its_outline_alone():
    canvas = Canvas(np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.int32), [])
    texture = np.random.default_rng(0).integers(200, 255, (80, 80, 3)).astype(np.uint8)
    for seed in range(4):
        laid = paste_object(canvas, flat(10), 0, np.random.default_rng(seed), texture=texture)
        assert (
            len(laid.objects) == 1 and len(paste_object(canvas, flat(10), 0, np.random.default_rng(seed)).objects) == 2
        )
        inside = laid.regions > 0
        assert inside.any() and (laid.image[inside].max(-1) > 12).any()


def test_weights_of_a_call_replace_the_usual_ones():
    mixture = Mixture([[flat(10)], [flat(20)]], [1.0, 0.0], augment=Augment(paste=0, shapes=0))
    draw = {"size": 32, "objects": 1, "min_area": 0.0}
    assert mixture.sample(0, 0, **draw).source == "10"
    assert mixture.sample(0, 0, weights=(0.0, 1.0), **draw).source == "20"
