"""The distractor-aware policy: frames on which something similar was told apart become prompted frames."""

from __future__ import annotations

import statistics
from typing import Any

from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.ops import regions
from sam2core.types import FrameMemory, Keep, MaskPrediction, Recall
from sam2core_tracking.boxes import boxes
from sam2core_tracking.kalman import NOTHING, overlap


class DistractorAware(RecentFrames):
    """Recalls a few recent frames and at most `prompted` prompted ones, and adds to these what reveals a distractor.

    Of the recent frames every `stride`-th is read. A tracked frame reveals a distractor when its mask is trusted and
    the decoder's other masks point elsewhere: its predicted IoU exceeds `iou`, its area lies within `steady` of the
    median of the last `areas` areas, the last addition is more than `pause` frames ago, and the largest piece of
    another mask outside the believed one, together with it, fills a box whose IoU with the believed box is at most
    `apart`. Frames without the object are forgotten.
    Prompted frames are the first one, the latest before the previous frame, then the nearest, never the previous frame
    itself; together with recent frames they take `slots`. Added prompted frames that are no longer among the nearest
    are dropped, so memory stays constant.

    Written from a description of Videnovic et al. 2025, "A Distractor-Aware Memory for Visual Object Tracking with
    SAM2". Differs from it: prompted frames always take the last slot's code, and prompted object pointers keep the sign
    of their age.
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
        object_pointers: int = 16,
        prompted: int = 4,
    ) -> None:
        if slots <= prompted:
            raise ValueError(
                f"tracking.distractor: slots must be more than the {prompted} prompted frames, not {slots}"
            )
        super().__init__(frames=slots - 1, stride=stride, object_pointers=object_pointers, prompted=prompted)
        self.iou = iou
        self.steady = steady
        self.apart = apart
        self.pause = pause
        self.areas = areas
        self.window = window
        self.slots = slots

    def start(self) -> dict[str, Any]:
        """The object's areas as [frame, pixels], and the frames that were added to the prompted ones."""
        return {"areas": [], "added": []}

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: dict[str, Any]) -> Keep | None:
        """Among the prompted frames where a distractor was told apart, else among the recent ones.

        Frames without the object are forgotten.
        """
        there = (answer.logits[:, 0] > 0) & (answer.object_score[..., None] > 0)
        pixels = int(there.sum(dim=(1, 2)).min())
        if not pixels:
            return None
        frame = memory.frame
        known = [area for at, area in state["areas"] if 0 < abs(frame - at) <= self.window][-self.areas :]
        state["areas"] = [*state["areas"][-(self.areas - 1) :], [frame, pixels]]
        added = [at for at in state["added"] if at in bank.prompted and at != frame]
        state["added"] = added
        if not known or any(abs(frame - at) <= self.pause for at in added):
            return Keep.RECENT
        usual = statistics.median(known)
        trusted = abs(pixels - usual) <= self.steady * usual and float(answer.iou.min()) > self.iou
        if not trusted or not self._distracts(answer, there):
            return Keep.RECENT
        state["added"] = [*added, frame]
        self._drop_far(bank, frame, state)
        return Keep.PROMPTED

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
        """Forget added prompted frames that `recall` no longer reaches from here; what the user prompted stays."""
        assert self.prompted is not None
        nearest = sorted(state["added"], key=lambda at: abs(at - frame))[: self.prompted]
        for at in set(state["added"]) - set(nearest):
            bank.drop(at)
        state["added"] = [at for at in state["added"] if at in nearest]

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """Up to `prompted` prompted frames and as many recent frames as the other slots hold."""
        plain = super().recall(bank, frame, backwards=backwards, length=length, state=state)
        prompted = [slot for slot in plain.slots if slot[0] == self.frames]
        recent = [slot for slot in plain.slots if slot[0] != self.frames]
        recent = recent[max(0, len(recent) - (self.slots - len(prompted))) :]
        return Recall(slots=(*prompted, *recent), object_pointers=plain.object_pointers, horizon=plain.horizon)

    def _nearest(self, prompted: dict[int, FrameMemory], frame: int) -> dict[int, FrameMemory]:
        """The first prompted frame, the latest before the previous frame, then by distance; never the previous
        frame."""
        assert self.prompted is not None
        usable = {at: memory for at, memory in prompted.items() if abs(at - frame) != 1}
        if len(usable) <= self.prompted:
            return usable or dict(prompted)
        first = next(iter(usable))
        before = max((at for at in usable if at < frame - 1 and at != first), default=None)
        order = [at for at in (first, before) if at is not None]
        rest = sorted((at for at in usable if at not in order), key=lambda at: abs(at - frame))
        return {at: usable[at] for at in (order + rest)[: self.prompted]}
