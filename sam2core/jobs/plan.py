"""Which frames a run over a video goes through, in which passes; the same plan tells where it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sam2core.jobs.prompts import UserPrompt
    from sam2core.media.frames import FrameSource


class Pass(NamedTuple):
    """Arguments of `VideoSession.propagate`: the first frame, the end (exclusive), and the direction."""

    start: int
    stop: int | None
    direction: str


@dataclass(frozen=True)
class Plan:
    """Which way a run goes over the frames of a source, counted from 0.

    direction   "forward" from the first prompted frame on, "backward" from the last one back, or "both" from the first
    first       the frame it begins on
    """

    direction: str
    first: int

    @classmethod
    def of(cls, direction: str, prompted: Iterable[int]) -> Plan:
        """The plan that visits what the prompted frames are prompted for."""
        return cls(direction, max(prompted) if direction == "backward" else min(prompted))

    def ahead(self, position: int | None, source: FrameSource) -> list[Pass]:
        """What is yet to be visited after the frame `position`; None: everything."""
        first = self.first
        if self.direction == "backward" or self.direction == "both" and position is not None and position < first:
            start = first if position is None else position - 1
            return [Pass(start, -1, "backward")] if start >= 0 else []
        start = first if position is None else position + 1
        passes = [Pass(start, None, "forward")] if source.has(start) else []
        return [*passes, Pass(first - 1, -1, "backward")] if self.direction == "both" and first > 0 else passes

    def behind(self, position: int | None, length: int | None) -> int:
        """How many frames were visited when it is at the frame `position`."""
        if position is None:
            return 0
        if self.direction == "both" and position < self.first:
            assert length is not None
            return length - position
        return abs(position - self.first) + 1


def count(passes: Iterable[Pass], length: int | None) -> int | None:
    """How many frames passes visit; None when nobody knows how many there are."""
    if length is None:
        return None
    return sum(one.start + 1 if one.direction == "backward" else length - one.start for one in passes)


@dataclass(frozen=True)
class Stretch:
    """The part of a video that is looked at: every `stride`-th frame from `start` on, before `stop`."""

    start: int = 0
    stop: int | None = None
    stride: int = 1

    def number(self, index: int) -> int:
        """A frame's number in the video."""
        return self.start + index * self.stride

    def index(self, number: int) -> int:
        """The place of a frame of the video among those that are looked at."""
        return (number - self.start) // self.stride

    def check(self, prompt: UserPrompt, source: FrameSource) -> None:
        """Raise ValueError when a prompt is on a frame that is not looked at."""
        at, off = divmod(prompt.frame - self.start, self.stride)
        if at < 0 or off or self.stop is not None and prompt.frame >= self.stop:
            seen = f"{self.start}, {self.start + self.stride} and so on"
            seen += "" if self.stop is None else f", before {self.stop}"
            raise ValueError(f"{prompt.where}: the frames seen are {seen} (--start, --stop, --stride)")
        if source.length is not None and at >= source.length:
            last = self.number(source.length - 1)
            raise ValueError(f"{prompt.where}: that lies beyond the video's end, its last frame is {last}")
