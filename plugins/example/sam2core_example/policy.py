"""Remember what one was sure of."""

from __future__ import annotations

from typing import Any

from sam2core import FrameMemory, MaskPrediction, MemoryPolicy, Recall, Shelf
from sam2core.memory.bank import MemoryBank


class ConfidentFrames(MemoryPolicy):
    """Every prompted frame, and the latest `frames` of those tracked frames that the model itself trusts.

    Options: a frame is trusted when its object is present with a predicted IoU of at least `min_iou`; it is remembered
    for `reach` frames. `pointers` is the age in frames at which a pointer counts as old. A hidden object leaves no
    memories, and those from before it was hidden stay.
    """

    def __init__(self, *, frames: int = 6, min_iou: float = 0.5, reach: int = 32, pointers: int = 16) -> None:
        for name, value, least in (("frames", frames, 1), ("reach", reach, 1), ("pointers", pointers, 2)):
            if value < least:
                raise ValueError(f"example.confident: {name} must be at least {least}, not {value}")
        self.frames = frames
        self.min_iou = min_iou
        self.pointers = pointers
        self.horizon = reach
        self.clearing = frames + 1

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Shelf | None:
        """On the trail when the answer is trusted; forgotten otherwise."""
        trusted = (answer.presence[:, 0] > 0) & (answer.iou >= self.min_iou)
        return Shelf.TRAIL if bool(trusted.all()) else None

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """All anchors in the last slot, trusted frames in the others, the latest in slot 0; pointers of both."""
        sign = -1 if backwards else 1
        behind = sorted((sign * (frame - at), at) for at in bank.trail)
        latest = [(age, bank.trail[at]) for age, at in behind if 0 < age <= self.horizon][: self.frames]
        anchors = [(sign * (frame - at), memory) for at, memory in bank.anchors.items()]
        slots = [(self.frames, memory) for _, memory in anchors]
        slots += [(slot, memory) for slot, (_, memory) in reversed(list(enumerate(latest)))]
        pointers = [(age, memory) for age, memory in anchors if age >= 0] + latest
        return Recall(tuple(slots), tuple(pointers), horizon=self.pointers - 1)
