"""Remember what one was sure of."""

from __future__ import annotations

from typing import Any

from sam2core import FrameMemory, Keep, MaskPrediction, MemoryPolicy, Recall
from sam2core.memory.bank import MemoryBank


class ConfidentFrames(MemoryPolicy):
    """Every prompted frame, and the latest `frames` of those tracked frames that the model itself trusts.

    Options: a frame is trusted when its object is present with a predicted IoU of at least `min_iou`; it is remembered
    for `reach` frames. `object_pointers` is the age in frames at which an object pointer counts as old. A hidden object
    leaves no memories, and those from before it was hidden stay.
    """

    def __init__(self, *, frames: int = 6, min_iou: float = 0.5, reach: int = 32, object_pointers: int = 16) -> None:
        for name, value, least in (("frames", frames, 1), ("reach", reach, 1), ("object_pointers", object_pointers, 2)):
            if value < least:
                raise ValueError(f"example.confident: {name} must be at least {least}, not {value}")
        self.frames = frames
        self.min_iou = min_iou
        self.object_pointers = object_pointers
        self.horizon = reach
        self.clearing = frames + 1

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Keep | None:
        """On the recent frames when the answer is trusted; forgotten otherwise."""
        trusted = (answer.object_score[:, 0] > 0) & (answer.iou >= self.min_iou)
        return Keep.RECENT if bool(trusted.all()) else None

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """All prompted frames in the last slot, trusted frames in the others, the latest in slot 0; object pointers of
        both."""
        sign = -1 if backwards else 1
        behind = sorted((sign * (frame - at), at) for at in bank.recent)
        latest = [(age, bank.recent[at]) for age, at in behind if 0 < age <= self.horizon][: self.frames]
        prompted = [(sign * (frame - at), memory) for at, memory in bank.prompted.items()]
        slots = [(self.frames, memory) for _, memory in prompted]
        slots += [(slot, memory) for slot, (_, memory) in reversed(list(enumerate(latest)))]
        object_pointers = [(age, memory) for age, memory in prompted if age >= 0] + latest
        return Recall(tuple(slots), tuple(object_pointers), horizon=self.object_pointers - 1)
