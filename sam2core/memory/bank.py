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
        """Keep a memory on a shelf; it replaces what either shelf held for that frame.

        A frame that is on the shelf already keeps its place: the order of prompted frames decides between equally near
        ones.
        """
        here, there = (self.prompted, self.recent) if keep is Keep.PROMPTED else (self.recent, self.prompted)
        there.pop(memory.frame, None)
        here[memory.frame] = memory

    def get(self, frame: int) -> FrameMemory | None:
        """The memory of a frame, from either shelf."""
        return self.prompted.get(frame) or self.recent.get(frame)

    def drop(self, frame: int) -> None:
        """Forget a frame, if it is known."""
        self.prompted.pop(frame, None)
        self.recent.pop(frame, None)

    def demote(self, frame: int) -> None:
        """Move a frame from the prompted frames to the recent frames, if it is a prompted frame."""
        if frame in self.prompted:
            self.recent[frame] = self.prompted.pop(frame)

    def trim(self, frame: int, horizon: int, *, onwards: bool = False) -> None:
        """Forget the recent frames further than `horizon` frames from `frame` and from every prompted frame, where a
        pass may start.

        With `onwards`, no pass starts anywhere but goes on from `frame`, as in a live session: prompted frames keep no
        recent frames.
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
