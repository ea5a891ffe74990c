"""SAM 2's memories, and the mask of the frame before as a mask input."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sam2core.memory.policy import RecentFrames
from sam2core.memory.readout import rows_of
from sam2core.types import MASK_INPUT_LIMIT, Prompt, Recall


class CarriedMask(RecentFrames):
    """SAM 2's own policy, but a tracked frame is also told the mask of the frame before.

    That is easier to learn from than memories are. The options are those of `RecentFrames`.
    """

    def tracking_prompt(
        self, recalls: Sequence[Recall], mask_input_size: tuple[int, int], device: torch.device
    ) -> Prompt:
        """Plain tracking with the mask (B, 1, h, w) of the recalled frame nearest in time, forgotten ones aside."""
        nearest = [min(one.object_pointers, key=lambda pair: abs(pair[0]), default=None) for one in recalls]
        rows = [rows_of(one) for one in recalls]
        nothing = Prompt.nothing(sum(rows), device)
        if not any(nearest):
            return nothing
        blank = torch.zeros(1, 1, *mask_input_size, device=device)
        masks = [blank if pair is None else pair[1].logits.detach().float() for pair in nearest]
        known = [pair is not None for pair, count in zip(nearest, rows) for _ in range(count)]
        return Prompt(
            nothing.points,
            nothing.labels,
            mask_input=torch.cat([mask.to(device) for mask in masks]).clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT),
            has_mask_input=None if all(known) else torch.tensor(known, device=device),
        )
