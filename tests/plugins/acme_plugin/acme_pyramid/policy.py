"""Remember only what one is sure of."""

from __future__ import annotations

from typing import Any

from sam2core import FrameMemory, Keep, MaskPrediction, RecentFrames


class SureFrames(RecentFrames):
    """SAM 2's policy, but frames with a predicted IoU below `least` are forgotten."""

    def __init__(self, *, least: float = 0.5, frames: int = 6) -> None:
        super().__init__(frames=frames)
        self.least = least

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: Any, state: Any) -> Keep | None:
        return Keep.RECENT if float(answer.iou.mean()) >= self.least else None
