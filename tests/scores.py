"""What tests of masks chosen by their score share: a threshold that rounding cannot cross."""

from __future__ import annotations

from torch import Tensor


def threshold_between(scores: Tensor) -> Tensor:
    """The middle of the widest gap between neighbouring scores among the middle half, whatever the shape."""
    ordered = scores.flatten().sort().values
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    gap = middle.diff().argmax()
    return middle[gap : gap + 2].mean()
