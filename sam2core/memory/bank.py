"""One object's memories in one video."""

from __future__ import annotations

from collections.abc import Iterator

from sam2core.types import FrameMemory, Keep


class MemoryBank:
    """An object's prompted frames (frames we trust) and recent frames (what the model made of the rest), by frame.

    Memories are immutable, so a fork copies two small dicts and shares every tensor.
    """

    def __init__(self) -> None:
        self.prompted: dict[int, FrameMemory] = {}
        self.recent: dict[int, FrameMemory] = {}

    def put(self, memory: FrameMemory, keep: Keep) -> None:
        """Keep a memory among the prompted or the recent frames; it replaces what was known of its frame.

        A frame that is there already keeps its place: the order of prompted frames decides between equally near ones.
        """
        here, there = (self.prompted, self.recent) if keep is Keep.PROMPTED else (self.recent, self.prompted)
        there.pop(memory.frame, None)
        here[memory.frame] = memory

    def get(self, frame: int) -> FrameMemory | None:
        """The memory of a frame, prompted or recent; None when there is none."""
        return self.prompted.get(frame) or self.recent.get(frame)

    def drop(self, frame: int) -> None:
        """Forget a frame, if it is known."""
        self.prompted.pop(frame, None)
        self.recent.pop(frame, None)

    def demote(self, frame: int) -> None:
        """Count a prompted frame among the recent ones from now on."""
        if frame in self.prompted:
            self.recent[frame] = self.prompted.pop(frame)

    def trim(self, frame: int, horizon: int, *, onwards: bool = False) -> None:
        """Forget recent frames that are more than `horizon` frames away from `frame` and from every prompted frame.

        A pass may start at any prompted frame, and reads what is near it. With `onwards` it can only go on from
        `frame`, as in a live session, and nothing is kept around prompted frames.
        """
        near = (frame,) if onwards else (frame, *self.prompted)
        for at in [at for at in self.recent if all(abs(at - one) > horizon for one in near)]:
            del self.recent[at]

    def fork(self) -> MemoryBank:
        """An independent bank that shares every memory."""
        other = MemoryBank()
        other.prompted.update(self.prompted)
        other.recent.update(self.recent)
        return other

    def __len__(self) -> int:
        return len(self.prompted) + len(self.recent)

    def __iter__(self) -> Iterator[FrameMemory]:
        yield from self.prompted.values()
        yield from self.recent.values()
