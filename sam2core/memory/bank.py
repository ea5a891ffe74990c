"""One object's memories in one video."""

from __future__ import annotations

from collections.abc import Iterator

from sam2core.types import FrameMemory, Shelf


class MemoryBank:
    """An object's anchors (frames we trust) and trail (what the model made of the rest), by frame.

    Memories are immutable, so a fork copies two small dicts and shares every tensor.
    """

    def __init__(self) -> None:
        self.anchors: dict[int, FrameMemory] = {}
        self.trail: dict[int, FrameMemory] = {}

    def put(self, memory: FrameMemory, shelf: Shelf) -> None:
        """Keep a memory on a shelf; it replaces what either shelf held for that frame.

        A frame that is on the shelf already keeps its place: the order of anchors decides between equally near ones.
        """
        here, there = (self.anchors, self.trail) if shelf is Shelf.ANCHOR else (self.trail, self.anchors)
        there.pop(memory.frame, None)
        here[memory.frame] = memory

    def get(self, frame: int) -> FrameMemory | None:
        """The memory of a frame, from either shelf."""
        return self.anchors.get(frame) or self.trail.get(frame)

    def drop(self, frame: int) -> None:
        """Forget a frame, if it is known."""
        self.anchors.pop(frame, None)
        self.trail.pop(frame, None)

    def demote(self, frame: int) -> None:
        """Move a frame from the anchors to the trail, if it is an anchor."""
        if frame in self.anchors:
            self.trail[frame] = self.anchors.pop(frame)

    def trim(self, frame: int, horizon: int, *, onwards: bool = False) -> None:
        """Forget the trail further than `horizon` frames from `frame` and from every anchor, where a pass may start.

        With `onwards`, no pass starts anywhere but goes on from `frame`, as in a live session: anchors keep no trail.
        """
        near = (frame,) if onwards else (frame, *self.anchors)
        for at in [at for at in self.trail if all(abs(at - one) > horizon for one in near)]:
            del self.trail[at]

    def fork(self) -> MemoryBank:
        """An independent bank that shares every memory."""
        other = MemoryBank()
        other.anchors.update(self.anchors)
        other.trail.update(self.trail)
        return other

    def __len__(self) -> int:
        return len(self.anchors) + len(self.trail)

    def __iter__(self) -> Iterator[FrameMemory]:
        yield from self.anchors.values()
        yield from self.trail.values()
