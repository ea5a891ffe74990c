"""Random numbers without a generator to carry around: each is a function of what it is for.

A prompt must not depend on how many processes share a batch, on how it is cut into pieces, or on whether a run was
killed and resumed. So nothing is drawn "next"; a number is asked for by a tag, and every row of the batch has its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class SeededRandom:
    """Uniform numbers in [0, 1) for the rows of a batch, by (key, tag, row).

    key: what the whole batch shares, such as (seed, step). rows: the numbers of this batch's rows among all rows of the
    step, wherever those are computed. Tags are small non-negative integers that say what a number is for.
    """

    def __init__(self, key: Sequence[int], rows: Sequence[int] | np.ndarray | Tensor):
        self.key = tuple(int(part) for part in key)
        self.rows = np.asarray(rows, dtype=np.int64)

    def at(self, *tag: int) -> SeededRandom:
        """The same rows with these tags in front of all later ones."""
        return SeededRandom((*self.key, *tag), self.rows)

    def of(self, index: Tensor) -> SeededRandom:
        """Some of the rows (indices or a mask of them)."""
        return SeededRandom(self.key, self.rows[index.cpu().numpy()])

    def uniform(self, *tag: int, count: int = 1) -> Tensor:
        """(rows, count) numbers, each row its own."""
        if not len(self.rows):
            return torch.zeros(0, count)
        numbers = self._generator(*tag, 1).random((int(self.rows.max()) + 1, count), dtype=np.float32)
        return torch.from_numpy(numbers[self.rows])

    def shared(self, *tag: int) -> np.random.Generator:
        """A generator that is the same for all rows of the step, in every process."""
        return self._generator(*tag, 2)

    def _generator(self, *tag: int) -> np.random.Generator:
        # seeds that differ in zeros at the end only are the same seed: the last tag is never 0
        return np.random.default_rng([*self.key, *tag])
