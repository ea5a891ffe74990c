"""Overlap of masks, exact to the official evaluators, and what to print about many scores; F is in `contours`.

Source: ``davis2017-evaluation`` for J and for the mean, recall and decay of J and F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def iou(answer: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union, J, of two boolean masks (H, W); 1.0 when both are empty.

    Raises ValueError when their sizes differ.
    """
    if answer.shape != truth.shape:
        raise ValueError(f"masks must have one size, got {answer.shape} and {truth.shape}")
    union = int(np.count_nonzero(answer | truth))
    return 1.0 if union == 0 else int(np.count_nonzero(answer & truth)) / union


@dataclass(frozen=True)
class Course:
    """How a score went over the frames of a video: its mean, the share of frames above 0.5, and how much it fell."""

    mean: float
    recall: float
    decay: float


def course(scores: Sequence[float], *, narrow_bins: bool = False) -> Course:
    """Mean, recall and decay of one object's scores, frame by frame.

    Decay is the mean of the first quarter minus that of the last, quarters sharing the frame between them.
    narrow_bins: keep the quarters' edges in 8 bits as davis2017-evaluation does, which makes the decay of more than 256
    frames NaN or wrong. Raises ValueError when there is no frame. Source: ``db_statistics``.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise ValueError("there is no frame to summarise")
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.int64)
    if narrow_bins:
        edges %= 256
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    decay = first.mean() - last.mean() if len(first) and len(last) else math.nan
    return Course(float(values.mean()), float((values > 0.5).mean()), float(decay))


def clicks_needed(scores: Sequence[float], goal: float) -> int | None:
    """How many clicks until a score reaches `goal`, from the scores after each click; None when it never does."""
    return next((number for number, score in enumerate(scores, 1) if score >= goal), None)


@dataclass(frozen=True)
class Summary:
    """A mean with its 95 % interval, resampled over images, not over objects."""

    mean: float
    low: float
    high: float
    objects: int
    images: int


def summarise(scores: Sequence[Sequence[float]], *, draws: int = 1000, seed: int = 0) -> Summary:
    """The mean over all objects of all images (or videos), `scores[image][object]`, with an interval over images.

    Raises ValueError when there is no object at all.
    """
    filled = [np.asarray(image, dtype=np.float64) for image in scores if len(image)]
    if not filled:
        raise ValueError("there is no object to summarise")
    sums = np.array([image.sum() for image in filled])
    counts = np.array([len(image) for image in filled])
    picks = np.random.default_rng(seed).integers(len(filled), size=(draws, len(filled)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Summary(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()), len(filled))


def terciles(areas: Sequence[float]) -> list[int]:
    """For each area its third: 0 the smallest objects, 1 the middle, 2 the largest; equal areas are never parted."""
    values = np.asarray(areas, dtype=np.float64)
    if not len(values):
        return []
    lower, upper = np.quantile(values, [1 / 3, 2 / 3])
    return [int(value > lower) + int(value > upper) for value in values]
