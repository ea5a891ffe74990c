"""Clips made of one image: what moves, what hides what, and that masks are what is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sam2core.training.pseudo import STILL, Motion, encode_masks, fill_holes, pseudo_video, smooth_path, things

PURE = Motion(drift=0.0, blur=0.0, defocus=0.0, compress=0.0, noise=0.0, lookalike=0.0, occluder=0.0, leave=0.0)


def scene(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Two plain squares on a plain ground, and a part of the first."""
    masks = np.zeros((3, size, size), bool)
    masks[0, 20:50, 15:45] = True
    masks[1, 55:85, 50:80] = True
    masks[2, 20:35, 15:45] = True
    image = np.full((size, size, 3), 90, np.uint8)
    image[masks[0]] = (230, 40, 40)
    image[masks[1]] = (40, 60, 230)
    return image, masks


def test_codes_say_which_masks_cover_a_pixel():
    draw = np.random.default_rng(0)
    for count in (1, 3, 40):
        masks = draw.random((count, 12, 17)) > 0.8
        codes, table = encode_masks(masks)
        assert (table[:, codes] == masks).all() and not table[:, 0].any()


def test_masks_that_share_pixels_are_one_thing():
    _, table = encode_masks(scene()[1])
    assert [group.tolist() for group in things(table)] == [[True, False, True], [False, True, False]]


def test_the_same_numbers_give_the_same_clip_and_others_another():
    image, masks = scene()
    first, again, other = (pseudo_video(image, masks, 4, np.random.default_rng(seed), size=64) for seed in (1, 1, 2))
    assert first.frames.shape == (4, 64, 64, 3) and first.masks.shape == (4, 3, 64, 64)
    assert (first.frames == again.frames).all() and (first.masks == again.masks).all()
    assert (first.frames != other.frames).any()


def test_masks_lie_on_what_they_are_of():
    """Colours stay what they are when nothing changes the light, wherever things move."""
    image, masks = scene()
    for seed in range(12):
        clip = pseudo_video(image, masks, 4, np.random.default_rng(seed), motion=PURE)
        for frame, seen in zip(clip.frames.astype(int), clip.masks):
            assert not (seen[0] & seen[1]).any() and not (seen[2] & ~seen[0]).any()
            red = (frame[..., 0] > 190) & (frame[..., 2] < 90)
            blue = (frame[..., 2] > 190) & (frame[..., 0] < 90)
            for colour, mask in ((red, seen[0]), (blue, seen[1])):
                # edges are soft, and what lies beyond the image is its mirror image: no object
                assert (colour & mask).sum() >= 0.8 * mask.sum() - 10, seed
        assert clip.masks[0].any((1, 2)).all()


def test_things_move_are_hidden_and_leave():
    image, masks = scene()
    still = pseudo_video(
        image,
        masks,
        4,
        np.random.default_rng(0),
        motion=replace(STILL, **dict.fromkeys(("drift", "noise", "blur", "compress", "defocus"), 0.0)),
    )
    assert (still.frames == still.frames[0]).all() and (still.masks == still.masks[0]).all()
    moved, gone = 0, 0
    for seed in range(12):
        clip = pseudo_video(
            image, masks, 6, np.random.default_rng(seed), motion=replace(PURE, occluder=1.0, vanish=1.0, leave=0.5)
        )
        moved += bool((clip.masks[0] != clip.masks[-1]).any())
        gone += bool((~clip.masks[:, :2].any((2, 3))).any())
    assert moved >= 11 and gone >= 3


def test_slow_clips_move_less():
    """How far the middle of a square is from where it was, over the clip."""
    image, masks = scene()

    def way(seed: int, slow: float) -> float:
        clip = pseudo_video(image, masks[:1], 5, np.random.default_rng(seed), motion=replace(PURE, static=0, slow=slow))
        middles = np.array([np.argwhere(mask[0]).mean(0) for mask in clip.masks])
        return float(np.abs(middles - middles[0]).max())

    slow, fast = (np.median([way(seed, share) for seed in range(9)]) for share in (1.0, 0.0))
    assert 0 < slow < 0.5 * fast


def test_a_copy_of_an_object_is_no_object():
    image, masks = scene()
    found = 0
    for seed in range(10):
        clip = pseudo_video(image, masks[1:2], 3, np.random.default_rng(seed), motion=replace(PURE, lookalike=1.0))
        blue = (clip.frames[..., 2].astype(int) > 190) & (clip.frames[..., 0] < 90)
        found += bool((blue & ~clip.masks[:, 0]).sum() > 300)
    assert found >= 4


def test_holes_are_filled_from_around_them():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 200
    holes = np.zeros((64, 64), bool)
    holes[20:40, 4:24] = True
    image[holes] = 255
    filled = fill_holes(image, holes)
    assert (filled[~holes] == image[~holes]).all() and filled[holes].max() < 60
    assert (fill_holes(image, np.ones((64, 64), bool)) == 128).all()


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_paths_start_at_rest_and_stay_in_reach(frames):
    path = smooth_path(frames, 5, np.random.default_rng(3))
    assert path.shape == (frames, 5) and not path[0].any() and np.abs(path).max() <= 1
