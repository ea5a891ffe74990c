"""What to believe, what to keep, what to recall."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.memory.readout import rows_of
from sam2core.types import FrameMemory, Keep, MaskCandidates, MaskPrediction, Prompt, Recall


class MemoryPolicy:
    """What to believe, what to keep, what to recall, for one object at a time.

    A policy has no weights: it can be swapped under a trained model. Its per-object state is whatever `start` returns;
    the session stores it in the object's track and hands it back. Override only what you change. In training all
    objects of a video share frames, so one bank and one call serve the whole batch.
    """

    horizon: int
    """How many frames back `recall` ever looks for recent frames; the session forgets those beyond."""
    clearing: int
    """How many frames around a prompt are forgotten when a session is asked to clear its recent frames."""

    def start(self) -> Any:
        """The state of a new object."""
        return None

    def copy(self, state: Any) -> Any:
        """An independent copy of an object's state, for forks and undo."""
        return copy.deepcopy(state)

    def choose(self, candidates: MaskCandidates, state: Any) -> Tensor:
        """The index (B,) of the candidate to believe: the one with the best predicted IoU, the first on ties."""
        return candidates.iou.argmax(dim=1)

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Keep | None:
        """Where a tracked frame's memory goes; None forgets it."""
        return Keep.RECENT

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """Which memories `frame` attends to; `length` is the video's, None when unknown."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to recall")


class RecentFrames(MemoryPolicy):
    """SAM 2's own policy: every prompted frame and the last few frames, and the object pointers of a longer past.

    Options: `frames` is the number of recent frames, taken every `stride` frames; object pointers are read from the
    last `object_pointers` frames; `prompted` limits the prompted frames, nearest first (None: all; otherwise at least
    2); `future_object_pointers` reads object pointers of prompted frames that lie ahead, too, as in training. Source:
    Meta's ``SAM2Base._prepare_memory_conditioned_features`` and ``select_closest_cond_frames``.
    """

    def __init__(
        self,
        *,
        frames: int = 6,
        stride: int = 1,
        object_pointers: int = 16,
        prompted: int | None = None,
        future_object_pointers: bool = False,
    ) -> None:
        for name, value, least in (
            ("frames", frames, 0),
            ("stride", stride, 1),
            ("object_pointers", object_pointers, 1),
        ):
            if value < least:
                raise ValueError(f"recent: {name} must be at least {least}, not {value}")
        if prompted is not None and prompted < 2:
            raise ValueError(
                f"recent: prompted frames must be at least 2 (one before, one after) or none, not {prompted}"
            )
        self.frames = frames
        self.stride = stride
        self.object_pointers = object_pointers
        self.prompted = prompted
        self.future_object_pointers = future_object_pointers
        self.clearing = (frames + 1) * stride
        self.horizon = max((frames - 1) * stride + 1 if frames else 0, object_pointers - 1)

    @property
    def recalled_slots(self) -> int:
        """One for each recent frame, and one that prompted frames share."""
        return self.frames + 1

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        selected = self._nearest(bank.prompted, frame)
        forward = -1 if backwards else 1

        def recent_at(at: int) -> FrameMemory | None:
            # a prompted frame that was not selected still serves as a recent one
            return bank.recent.get(at) or (bank.prompted.get(at) if at not in selected else None)

        slots = [(self.frames, memory) for memory in selected.values()]
        for distance in range(self.frames, 0, -1):
            memory = recent_at(self._slot_frame(frame, distance, backwards))
            if memory is not None and memory.blocks is not None:
                slots.append((distance - 1, memory))

        reach = self.object_pointers if length is None else min(length, self.object_pointers)
        object_pointers = []
        for at, memory in selected.items():
            distance = (frame - at) * forward
            if self.future_object_pointers or distance >= 0:
                object_pointers.append((distance, memory))
        for distance in range(1, reach):
            at = frame - distance * forward
            if at < 0 or (length is not None and at >= length):
                break
            memory = recent_at(at)
            if memory is not None:
                object_pointers.append((distance, memory))
        return Recall(slots=tuple(slots), object_pointers=tuple(object_pointers), horizon=reach - 1)

    def _slot_frame(self, frame: int, distance: int, backwards: bool) -> int:
        """The frame that fills the slot `distance` steps back: the neighbour, then multiples of the stride."""
        if distance == 1:
            return frame + 1 if backwards else frame - 1
        if backwards:
            return -(-(frame + 2) // self.stride) * self.stride + (distance - 2) * self.stride
        return (frame - 2) // self.stride * self.stride - (distance - 2) * self.stride

    def _nearest(self, prompted: dict[int, FrameMemory], frame: int) -> dict[int, FrameMemory]:
        """The prompted frames to attend to: all, or the nearest before, the nearest at or after, then by distance."""
        if self.prompted is None or len(prompted) <= self.prompted:
            return dict(prompted)
        before = max((at for at in prompted if at < frame), default=None)
        after = min((at for at in prompted if at >= frame), default=None)
        order = [at for at in (before, after) if at is not None]
        rest = sorted((at for at in prompted if at not in order), key=lambda at: abs(at - frame))
        return {at: prompted[at] for at in (order + rest)[: self.prompted]}


class UnrelatedImages(MemoryPolicy):
    """Another policy over images that have nothing to do with each other: no motion, and nothing but prompted frames.

    What was found on one image is not kept for the next, and no mask is carried from one to the other. `policy` says
    what to believe and in which slots the prompted frames are recalled.
    """

    horizon = 0

    def __init__(self, policy: MemoryPolicy) -> None:
        self.policy = policy
        self.clearing = policy.clearing

    def start(self) -> Any:
        return self.policy.start()

    def copy(self, state: Any) -> Any:
        return self.policy.copy(state)

    def choose(self, candidates: MaskCandidates, state: Any) -> Tensor:
        return self.policy.choose(candidates, state)

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Keep | None:
        return None

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        return self.policy.recall(bank, frame, backwards=backwards, length=length, state=state)

    def tracking_prompt(
        self, recalls: Sequence[Recall], mask_input_size: tuple[int, int], device: torch.device
    ) -> Prompt:
        """No prompt, whatever the model's own policy says of a frame that follows another."""
        return Prompt.nothing(sum(map(rows_of, recalls)), device)
