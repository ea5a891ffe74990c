"""The distractor-aware policy: frames on which something similar was told apart become anchors."""

from __future__ import annotations

import statistics
from typing import Any

from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.ops import regions
from sam2core.types import FrameMemory, MaskPrediction, Recall, Shelf
from sam2core_tracking.boxes import boxes
from sam2core_tracking.kalman import NOTHING, overlap


class DistractorAware(RecentFrames):
    """Recalls few recent frames, every `stride`-th, and up to `anchors` anchors, to which it adds revealing frames.

    A tracked frame reveals a distractor when its mask is trusted and the decoder's other masks point elsewhere: its
    predicted IoU exceeds `iou`, its area lies within `steady` of the median of the last `areas` areas, the last
    addition is more than `pause` frames ago, and the largest piece of another mask outside the believed one, together
    with it, fills a box whose IoU with the believed box is at most `apart`. Frames without the object are forgotten.
    Anchors are the first one, the latest before the previous frame, then the nearest, never the previous frame itself;
    together with recent frames they take `slots`. Added anchors that are no longer among the nearest are dropped, so
    memory stays constant.

    Written from a description of Videnovic et al. 2025, "A Distractor-Aware Memory for Visual Object Tracking with
    SAM2". Differs from it: anchors always take the last slot's code, and prompted pointers keep the sign of their age.
    """

    def __init__(
        self,
        *,
        iou: float = 0.8,
        steady: float = 0.2,
        apart: float = 0.7,
        pause: int = 5,
        areas: int = 10,
        window: int = 300,
        slots: int = 7,
        stride: int = 5,
        pointers: int = 16,
        anchors: int = 4,
    ) -> None:
        if slots <= anchors:
            raise ValueError(f"tracking.distractor: slots must be more than the {anchors} anchors, not {slots}")
        super().__init__(frames=slots - 1, stride=stride, pointers=pointers, anchors=anchors)
        self.iou = iou
        self.steady = steady
        self.apart = apart
        self.pause = pause
        self.areas = areas
        self.window = window
        self.slots = slots

    def start(self) -> dict[str, Any]:
        """The object's areas as [frame, pixels], and the frames that were added as anchors."""
        return {"areas": [], "added": []}

    def keep(
        self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: dict[str, Any]
    ) -> Shelf | None:
        """Nothing of a frame without the object, an anchor where a distractor was told apart, else the trail."""
        there = (answer.logits[:, 0] > 0) & (answer.presence[..., None] > 0)
        pixels = int(there.sum(dim=(1, 2)).min())
        if not pixels:
            return None
        frame = memory.frame
        known = [area for at, area in state["areas"] if 0 < abs(frame - at) <= self.window][-self.areas :]
        state["areas"] = [*state["areas"][-(self.areas - 1) :], [frame, pixels]]
        added = [at for at in state["added"] if at in bank.anchors and at != frame]
        state["added"] = added
        if not known or any(abs(frame - at) <= self.pause for at in added):
            return Shelf.TRAIL
        usual = statistics.median(known)
        trusted = abs(pixels - usual) <= self.steady * usual and float(answer.iou.min()) > self.iou
        if not trusted or not self._distracts(answer, there):
            return Shelf.TRAIL
        state["added"] = [*added, frame]
        self._drop_far(bank, frame, state)
        return Shelf.ANCHOR

    def _distracts(self, answer: MaskPrediction, there: Tensor) -> bool:
        """Whether another mask of the frame reaches well beyond the believed one, for any row of the batch."""
        others = answer.candidates.logits > 0
        if others.shape[1] == 1:
            return False
        outside = others & ~there[:, None]
        whole = regions.largest(outside) | there[:, None]
        own = boxes(there)
        for row in range(there.shape[0]):
            for box in boxes(whole[row]):
                if box != NOTHING and overlap(own[row], box) <= self.apart:
                    return True
        return False

    def _drop_far(self, bank: MemoryBank, frame: int, state: dict[str, Any]) -> None:
        """Forget added anchors that `recall` no longer reaches from here; what the user prompted stays."""
        assert self.anchors is not None
        nearest = sorted(state["added"], key=lambda at: abs(at - frame))[: self.anchors]
        for at in set(state["added"]) - set(nearest):
            bank.drop(at)
        state["added"] = [at for at in state["added"] if at in nearest]

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """Up to `anchors` anchors and as many recent frames as the other slots hold."""
        plain = super().recall(bank, frame, backwards=backwards, length=length, state=state)
        anchors = [slot for slot in plain.slots if slot[0] == self.frames]
        recent = [slot for slot in plain.slots if slot[0] != self.frames]
        recent = recent[max(0, len(recent) - (self.slots - len(anchors))) :]
        return Recall(slots=(*anchors, *recent), pointers=plain.pointers, horizon=plain.horizon)

    def _nearest(self, anchors: dict[int, FrameMemory], frame: int) -> dict[int, FrameMemory]:
        """The first anchor, the latest before the previous frame, then by distance; never the previous frame."""
        assert self.anchors is not None
        usable = {at: memory for at, memory in anchors.items() if abs(at - frame) != 1}
        if len(usable) <= self.anchors:
            return usable or dict(anchors)
        first = next(iter(usable))
        before = max((at for at in usable if at < frame - 1 and at != first), default=None)
        order = [at for at in (first, before) if at is not None]
        rest = sorted((at for at in usable if at not in order), key=lambda at: abs(at - frame))
        return {at: usable[at] for at in (order + rest)[: self.anchors]}
