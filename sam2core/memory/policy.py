"""What to believe, what to keep, what to recall."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.types import FrameMemory, MaskCandidates, MaskPrediction, Recall, Shelf


class MemoryPolicy:
    """What to believe, what to keep, what to recall, for one object at a time.

    A policy has no weights: it can be swapped under a trained model. Its per-object state is whatever `start` returns;
    the session stores it in the object's track and hands it back. Override only what you change. In training all
    objects of a clip share frames, so one bank and one call serve the whole batch.
    """

    horizon: int
    """How far back, in frames, `recall` may ever look on the trail; the session trims beyond it."""
    clearing: int
    """How far around a prompt, in frames, the trail is forgotten when a session is asked to."""

    def start(self) -> Any:
        """The state of a new object."""
        return None

    def copy(self, state: Any) -> Any:
        """An independent copy of an object's state, for forks and undo."""
        return copy.deepcopy(state)

    def choose(self, candidates: MaskCandidates, state: Any) -> Tensor:
        """The index (B,) of the candidate to believe: the one with the best predicted IoU, the first on ties."""
        return candidates.iou.argmax(dim=1)

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Shelf | None:
        """Where a tracked frame's memory goes; None forgets it."""
        return Shelf.TRAIL

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """Which memories `frame` attends to; `length` is the video's, None when unknown."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to recall")


class RecentFrames(MemoryPolicy):
    """SAM 2's own policy: every anchor and the last few frames, and the pointers of a longer past.

    Options: `frames` slots for recent frames, taken every `stride` frames; `pointers` how many frames' pointers are in
    reach; `anchors` at most so many anchors, nearest first (None: all; otherwise at least 2); `future_pointers` lets
    pointers of anchors that lie ahead be read, as in training. Source: upstream
    ``SAM2Base._prepare_memory_conditioned_features`` and ``select_closest_cond_frames``.
    """

    def __init__(
        self,
        *,
        frames: int = 6,
        stride: int = 1,
        pointers: int = 16,
        anchors: int | None = None,
        future_pointers: bool = False,
    ) -> None:
        for name, value, least in (("frames", frames, 0), ("stride", stride, 1), ("pointers", pointers, 1)):
            if value < least:
                raise ValueError(f"recent: {name} must be at least {least}, not {value}")
        if anchors is not None and anchors < 2:
            raise ValueError(f"recent: anchors must be at least 2 (one before, one after) or none, not {anchors}")
        self.frames = frames
        self.stride = stride
        self.pointers = pointers
        self.anchors = anchors
        self.future_pointers = future_pointers
        self.clearing = (frames + 1) * stride
        self.horizon = max((frames - 1) * stride + 1 if frames else 0, pointers - 1)

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        selected = self._nearest(bank.anchors, frame)
        forward = -1 if backwards else 1

        def trailing(at: int) -> FrameMemory | None:
            # an anchor that was not selected still serves as trail
            return bank.trail.get(at) or (bank.anchors.get(at) if at not in selected else None)

        slots = [(self.frames, memory) for memory in selected.values()]
        for distance in range(self.frames, 0, -1):
            memory = trailing(self._slot_frame(frame, distance, backwards))
            if memory is not None and memory.blocks is not None:
                slots.append((distance - 1, memory))

        reach = self.pointers if length is None else min(length, self.pointers)
        pointers = []
        for at, memory in selected.items():
            distance = (frame - at) * forward
            if self.future_pointers or distance >= 0:
                pointers.append((distance, memory))
        for distance in range(1, reach):
            at = frame - distance * forward
            if at < 0 or (length is not None and at >= length):
                break
            memory = trailing(at)
            if memory is not None:
                pointers.append((distance, memory))
        return Recall(slots=tuple(slots), pointers=tuple(pointers), horizon=reach - 1)

    def _slot_frame(self, frame: int, distance: int, backwards: bool) -> int:
        """The frame that fills the slot `distance` steps back: the neighbour, then multiples of the stride."""
        if distance == 1:
            return frame + 1 if backwards else frame - 1
        if backwards:
            return -(-(frame + 2) // self.stride) * self.stride + (distance - 2) * self.stride
        return (frame - 2) // self.stride * self.stride - (distance - 2) * self.stride

    def _nearest(self, anchors: dict[int, FrameMemory], frame: int) -> dict[int, FrameMemory]:
        """The anchors to attend to: all, or the nearest before, the nearest at or after, then by distance."""
        if self.anchors is None or len(anchors) <= self.anchors:
            return dict(anchors)
        before = max((at for at in anchors if at < frame), default=None)
        after = min((at for at in anchors if at >= frame), default=None)
        order = [at for at in (before, after) if at is not None]
        rest = sorted((at for at in anchors if at not in order), key=lambda at: abs(at - frame))
        return {at: anchors[at] for at in (order + rest)[: self.anchors]}
