"""Overlap of masks, and what to print about many of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def iou(answer: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two boolean masks (H, W); 1.0 when both are empty."""
    if answer.shape != truth.shape:
        raise ValueError(f"masks must have one size, got {answer.shape} and {truth.shape}")
    union = int(np.logical_or(answer, truth).sum())
    return 1.0 if union == 0 else int(np.logical_and(answer, truth).sum()) / union


@dataclass(frozen=True)
class Summary:
    """A mean with its 95 % interval, resampled over images, not over objects."""

    mean: float
    low: float
    high: float
    objects: int
    images: int


def summarise(scores: Sequence[Sequence[float]], *, draws: int = 1000, seed: int = 0) -> Summary:
    """The mean over all objects of all images, `scores[image][object]`, with a bootstrap interval over images.

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
