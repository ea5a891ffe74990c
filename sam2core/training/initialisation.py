"""Fresh weights to begin training with."""

from __future__ import annotations

from torch import nn


class Fresh:
    """The weights that parts make themselves when they are built."""

    def __call__(self, model: nn.Module) -> None:
        """Leave the model as it is."""
