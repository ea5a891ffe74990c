"""ObjectTrack: one object in one video, with its prompts, its memories and the frames it was tracked on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.types import FrameMemory, Keep, MaskPrediction


@dataclass(frozen=True, eq=False)
class Pending:
    """An answer to a prompt that is not memorized yet, and where its memory will go."""

    answer: MaskPrediction
    keep: Keep


@dataclass(frozen=True, eq=False)
class FramePrompt:
    """What the user said about one object on one frame: points (a box first), or a mask at model size."""

    points: Tensor  # (P, 2) in model pixels, on the CPU
    labels: Tensor  # (P,)
    mask: Tensor | None = None  # (H, W) of zeros and ones


class Passes:
    """Which frames were tracked, and in which direction last; kept as runs, so its size stays small."""

    def __init__(self, runs: Sequence[tuple[int, int, bool]] = ()) -> None:
        self.runs: list[tuple[int, int, bool]] = [(first, last, backwards) for first, last, backwards in runs]

    def add(self, frame: int, *, backwards: bool) -> None:
        if self.runs:
            first, last, same = self.runs[-1]
            if first <= frame <= last and same == backwards:
                return
            if same == backwards and first - 1 <= frame <= last + 1:
                self.runs[-1] = (min(first, frame), max(last, frame), backwards)
                self._settle()
                return
        self.runs.append((frame, frame, backwards))
        self._settle()

    def _settle(self) -> None:
        """Cut what the newest run covers out of the older ones."""
        first, last, _ = self.runs[-1]
        older = []
        for run in self.runs[:-1]:
            older += _without(run, first, last)
        self.runs[:-1] = older

    def drop(self, frame: int) -> None:
        self.runs = [part for run in self.runs for part in _without(run, frame, frame)]

    def direction(self, frame: int) -> bool | None:
        """Whether the frame was tracked backwards; None when it was not tracked."""
        for first, last, backwards in self.runs:
            if first <= frame <= last:
                return backwards
        return None

    def fork(self) -> Passes:
        return Passes(self.runs)


def _without(run: tuple[int, int, bool], first: int, last: int) -> list[tuple[int, int, bool]]:
    start, stop, backwards = run
    parts = [(start, min(stop, first - 1), backwards), (max(start, last + 1), stop, backwards)]
    return [part for part in parts if part[0] <= part[1]] if first <= stop and last >= start else [run]


@dataclass(eq=False)
class ObjectTrack:
    """One object in one video: its prompts, its memories, and the answers that wait to be memorized."""

    id: Hashable
    bank: MemoryBank = field(default_factory=MemoryBank)
    prompts: dict[int, FramePrompt] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)
    passes: Passes = field(default_factory=Passes)
    policy_state: Any = None
    shown: FrameMemory | None = None
    """The last tracked answer, without tokens: what is shown of a frame that the policy does not keep."""

    def fork(self, copy_state: Callable[[Any], Any]) -> ObjectTrack:
        """An independent track that shares every tensor."""
        return ObjectTrack(
            id=self.id,
            bank=self.bank.fork(),
            prompts=dict(self.prompts),
            pending=dict(self.pending),
            passes=self.passes.fork(),
            policy_state=copy_state(self.policy_state),
            shown=self.shown,
        )

    def latest(self, frame: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """The newest logits (1, 1, h, w), IoU (1,) and object score (1, 1) of a frame, if there is an answer."""
        known = self.pending[frame].answer if frame in self.pending else self.bank.get(frame)
        if known is None and self.shown is not None and self.shown.frame == frame:
            known = self.shown
        return None if known is None else (known.logits, known.iou, known.object_score)

    @property
    def prompted_frames(self) -> list[int]:
        """The prompted frames, memorized or waiting to be."""
        waiting = [frame for frame, pending in self.pending.items() if pending.keep is Keep.PROMPTED]
        return [*self.bank.prompted, *waiting]

    def forget_recent(self, frame: int, reach: int) -> None:
        """Forget the recent frames up to `reach` away from a frame."""
        for at in [at for at in self.bank.recent if abs(at - frame) <= reach]:
            del self.bank.recent[at]


def check_prompted(tracks: Mapping[Hashable, ObjectTrack]) -> None:
    """Raise ValueError where there is no object, or one that was never prompted."""
    if not tracks:
        raise ValueError("there is no object to track; prompt one first")
    for track in tracks.values():
        if not track.prompted_frames:
            raise ValueError(f"object {track.id!r} has no prompt on any frame; prompt it or remove it")


def first_prompted(tracks: Mapping[Hashable, ObjectTrack]) -> int:
    """The earliest frame on which one of the objects is prompted."""
    return min(frame for track in tracks.values() for frame in track.prompted_frames)
