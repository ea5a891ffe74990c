"""The motion-aware policy: of several masks the one that moves plausibly, and memories of confident frames only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.types import FrameMemory, Keep, MaskCandidates, MaskPrediction, Recall
from sam2core_tracking.boxes import boxes
from sam2core_tracking.kalman import Motion, overlap

FIRST = 2
"""Earlier frames are recalled as the previous frame alone, as SAMURAI does."""
UPSCALE = 4
"""Boxes are measured at model size."""


class MotionAware(RecentFrames):
    """Chooses by a Kalman filter over the mask's box, and recalls the last `frames` confident frames, however old.

    Of three masks the one with the largest `weight` * (IoU with the predicted box) + (1 - `weight`) * (predicted IoU)
    is believed, once `settle` frames in a row were believed with a predicted IoU of more than `update`; until then, and
    after an IoU below `update`, the largest predicted IoU decides. A frame is confident when its predicted IoU exceeds
    `iou`, its object score `object_score`, and its box met the predicted one if there was one; the frame before the
    current one is always recalled, object pointers as by `RecentFrames`. Each object has a filter of its own, in both
    directions of travel; what can no longer be recalled is dropped here, so the horizon has no end and memory stays
    constant.

    Source: Yang et al. 2024, "SAMURAI: Adapting Segment Anything Model for Zero-Shot Visual Tracking with Motion-Aware
    Memory". Its object score gate of -1 is the model's business and stays at 0.
    """

    horizon = 2**31 - 1

    def __init__(
        self,
        *,
        weight: float = 0.15,
        settle: int = 15,
        update: float = 0.3,
        iou: float = 0.5,
        object_score: float = 0.0,
        frames: int = 6,
        object_pointers: int = 16,
        prompted: int | None = None,
    ) -> None:
        super().__init__(frames=frames, object_pointers=object_pointers, prompted=prompted)
        if not 0 <= weight <= 1:
            raise ValueError(f"tracking.motion: weight is a share between 0 and 1, not {weight}")
        if settle < 1:
            raise ValueError(f"tracking.motion: settle is a number of frames, at least 1, not {settle}")
        self.weight = weight
        self.settle = settle
        self.update = update
        self.iou = iou
        self.object_score = object_score
        self.horizon = type(self).horizon

    def start(self) -> list[dict[str, Any]]:
        """One entry per row of a batch, made when it is first seen: its filter, and how it fared."""
        return []

    def choose(self, candidates: MaskCandidates, state: list[dict[str, Any]]) -> Tensor:
        """The index (B,) of the candidate that fits motion and predicted IoU; moves the filters on."""
        best = candidates.iou.argmax(dim=1)
        batch, masks = candidates.iou.shape
        if masks == 1:
            return best
        while len(state) < batch:
            state.append({"steady": 0, "motion": None, "fit": None, "missed": []})
        size = [UPSCALE * side for side in candidates.logits.shape[-2:]]
        large = F.interpolate(candidates.logits.float(), size=size, mode="bilinear", align_corners=False)
        seen = boxes((large > 0).flatten(0, 1))
        ious = candidates.iou.tolist()
        chosen = [
            self._choose(state[row], ious[row], seen[row * masks : (row + 1) * masks], index)
            for row, index in enumerate(best.tolist())
        ]
        return torch.tensor(chosen, device=best.device)

    def _choose(self, row: dict[str, Any], ious: list[float], seen: list[Any], best: int) -> int:
        row["fit"] = None
        if row["motion"] is None or row["steady"] == 0:
            row["motion"] = Motion.start(seen[best]).state()
            row["steady"] += 1
            return best
        motion = Motion.of(row["motion"]).step()
        settled = row["steady"] >= self.settle
        if settled:
            fits = [overlap(motion.box, box) for box in seen]
            weighted = [self.weight * fit + (1 - self.weight) * iou for fit, iou in zip(fits, ious)]
            best = weighted.index(max(weighted))
            row["fit"] = fits[best]
        trusted = ious[best] >= self.update if settled else ious[best] > self.update
        if trusted:
            motion = motion.corrected(seen[best])
        row["steady"] = 0 if not trusted else row["steady"] + (not settled)
        row["motion"] = motion.state()
        return best

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Keep | None:
        """Among the recent frames; those that can no longer be recalled are dropped."""
        for row in state:  # frames whose box missed the predicted one
            row["missed"] = [at for at in row["missed"] if at in bank.recent and at != memory.frame]
            if row["fit"] is not None and row["fit"] <= 0:
                row["missed"].append(memory.frame)
        near = (memory.frame, *bank.prompted)
        far = [at for at in bank.recent if all(abs(at - one) >= self.object_pointers for one in near)]
        if far:
            useful = self._confident(bank, sorted((at for at in bank.recent if at < memory.frame), reverse=True), state)
            useful += self._confident(bank, sorted(at for at in bank.recent if at > memory.frame), state)
            for at in set(far) - set(useful):
                bank.drop(at)
        return Keep.RECENT

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """The prompted frames, the last confident ones and the one before this, with object pointers as usual."""
        plain = super().recall(bank, frame, backwards=backwards, length=length, state=state)
        prompted = tuple(slot for slot in plain.slots if slot[0] == self.frames)
        before = frame + 1 if backwards else frame - 1
        past = sorted((at for at in bank.recent if (at > frame) == backwards and at != frame), reverse=not backwards)
        chosen = self._confident(bank, past, state)
        neighbour = bank.recent.get(before)
        if before not in chosen and neighbour is not None and neighbour.blocks is not None:
            chosen = [before, *chosen][: self.frames]
        slots = tuple((slot, bank.recent[at]) for slot, at in reversed(list(enumerate(chosen))))
        return Recall(slots=(*prompted, *slots), object_pointers=plain.object_pointers, horizon=plain.horizon)

    def _confident(self, bank: MemoryBank, order: list[int], state: Any) -> list[int]:
        """The first `frames` of the recent frames, in this order, that are confident; scores are fetched at once."""
        missed = {at for row in state for at in row["missed"]}
        order = [at for at in order if at >= FIRST and at not in missed and bank.recent[at].blocks is not None]
        if not order:
            return []
        scores = torch.stack(
            [torch.stack([bank.recent[at].iou.min(), bank.recent[at].object_score.min()]) for at in order]
        )
        confident = [
            at
            for at, (iou, object_score) in zip(order, scores.tolist())
            if iou > self.iou and object_score > self.object_score
        ]
        return confident[: self.frames]
