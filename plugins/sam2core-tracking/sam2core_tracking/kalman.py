"""A Kalman filter over boxes that move with constant velocity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

POSITION = 1 / 20  # deviations, in heights of the box
VELOCITY = 1 / 160
SHAPE = 1e-2  # deviation of width / height
SHAPE_VELOCITY = 1e-5
SHAPE_MEASURED = 1e-1
_MOVE = np.eye(8) + np.eye(8, k=4)
_SEE = np.eye(4, 8)

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, both corners inside."""
NOTHING: Box = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Motion:
    """Where a box is believed to be: its centre, width / height and height, and how fast each changes.

    The noise grows with the box's height. Source: Wojke et al. 2017, "Simple Online and Realtime Tracking with a Deep
    Association Metric"; the deviations are those of SAMURAI.
    """

    mean: np.ndarray  # (8,)
    covariance: np.ndarray  # (8, 8)

    @classmethod
    def start(cls, box: Box) -> Motion:
        """A box seen for the first time, at rest."""
        seen = _measure(box)
        height = seen[3]
        place, speed = 2 * POSITION * height, 10 * VELOCITY * height
        deviations = np.array([place, place, SHAPE, place, speed, speed, SHAPE_VELOCITY, speed])
        return cls(np.concatenate([seen, np.zeros(4)]), np.diag(deviations**2))

    def step(self) -> Motion:
        """The belief one frame on."""
        height = self.mean[3]
        place, speed = POSITION * height, VELOCITY * height
        deviations = np.array([place, place, SHAPE, place, speed, speed, SHAPE_VELOCITY, speed])
        return Motion(_MOVE @ self.mean, _MOVE @ self.covariance @ _MOVE.T + np.diag(deviations**2))

    def corrected(self, box: Box) -> Motion:
        """The belief after a box was seen."""
        place = POSITION * self.mean[3]
        noise = np.diag(np.array([place, place, SHAPE_MEASURED, place]) ** 2)
        expected = _SEE @ self.covariance @ _SEE.T + noise
        gain = np.linalg.solve(expected, _SEE @ self.covariance).T
        mean = self.mean + gain @ (_measure(box) - _SEE @ self.mean)
        return Motion(mean, self.covariance - gain @ expected @ gain.T)

    @property
    def box(self) -> Box:
        """The corners of the believed box."""
        x, y, shape, height = (float(value) for value in self.mean[:4])
        return (x - shape * height / 2, y - height / 2, x + shape * height / 2, y + height / 2)

    def state(self) -> dict[str, list[float]]:
        """Plain numbers, to be saved."""
        return {"mean": self.mean.tolist(), "covariance": self.covariance.flatten().tolist()}

    @classmethod
    def of(cls, state: dict[str, list[float]]) -> Motion:
        """The inverse of `state`."""
        return cls(np.array(state["mean"]), np.array(state["covariance"]).reshape(8, 8))


def _measure(box: Box) -> np.ndarray:
    x0, y0, x1, y1 = box
    height = (y1 - y0) or 1.0
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / height, height])


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 when the other is empty."""
    if other == NOTHING:
        return 0.0
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union else 0.0
