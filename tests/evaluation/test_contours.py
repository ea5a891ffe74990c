"""F against its definition: dilation by a disc, written out with an exact distance transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from sam2core.evaluation import contours
from sam2core.evaluation.contours import contour_score, count, dilate, pack


def unpack(words: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :width].astype(bool)


def written_out_contour(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            out[y, x] = any(mask[y, x] != mask[at] for at in around if at[0] < height and at[1] < width)
    out[-1, -1] = False
    return out


def written_out_score(answer: np.ndarray, truth: np.ndarray) -> float:
    a, t = written_out_contour(answer), written_out_contour(truth)
    if not a.any() or not t.any():
        return float(a.any() == t.any())
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    precision = (a & (ndimage.distance_transform_edt(~t) <= radius)).sum() / a.sum()
    recall = (t & (ndimage.distance_transform_edt(~a) <= radius)).sum() / t.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def mask_of(kind: int, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    if kind == 1:
        mask[:] = True
    elif kind == 2:
        mask[generator.integers(size[0]), generator.integers(size[1])] = True
    elif kind == 3:
        mask[-1], mask[:, -1] = generator.random() < 0.5, generator.random() < 0.5
    elif kind == 4:
        mask = generator.random(size) > 0.5
    elif kind > 4:
        noise = ndimage.gaussian_filter(generator.normal(size=size), generator.uniform(1, 8))
        mask = noise > np.quantile(noise, generator.uniform(0.3, 0.98))
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_written_out(seed):
    generator = np.random.default_rng(seed)
    for _ in range(15):
        size = tuple(int(side) for side in generator.integers(1, 150, 2))
        answer = mask_of(int(generator.integers(8)), size, generator)
        truth = mask_of(int(generator.integers(8)), size, generator)
        if generator.random() < 0.5:
            truth = np.roll(answer, generator.integers(-9, 9, 2), (0, 1))
        assert (unpack(contours.contour(pack(answer), size[1]), size[1]) == written_out_contour(answer)).all()
        assert contour_score(answer, truth) == written_out_score(answer, truth)


@pytest.mark.parametrize("radius", [0, 1, 8, 18, 63, 64, 70, 130])
def test_dilation_is_by_a_disc(radius):
    mask = np.random.default_rng(radius).random((90, 200)) > 0.9995
    wanted = ndimage.distance_transform_edt(~mask) <= radius
    assert (unpack(dilate(pack(mask), radius), 200) == wanted).all()


def test_counting_without_numpy_2(monkeypatch):
    words = pack(np.random.default_rng(0).random((40, 130)) > 0.3)
    wanted = int(unpack(words, 192).sum())
    assert count(words) == wanted
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count(words) == wanted


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one size"):
        contour_score(np.zeros((2, 2), bool), np.zeros((2, 3), bool))
