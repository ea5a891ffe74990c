"""SessionFrames: the frames of a session, the part of them that is looked at, and the last few of them encoded."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam2core.annotations import integer
from sam2core.media.frames import FrameError
from sam2core.model import Sam2
from sam2core.predictors.object_masks import Picture
from sam2core.predictors.transforms import pixels_of, read_crop, to_model
from sam2core.types import ImageFeatures

if TYPE_CHECKING:
    from sam2core.media.frames import FrameSource

CACHED_FRAMES = 4
Route = list[tuple[Iterator[int], bool]]
"""Frames in the order in which they are visited, and whether that is backwards; one part after the other."""


@dataclass
class NewestFrame:
    """The frame that a live session was given last, as it was given."""

    frame: int = -1
    image: Any = None

    def read(self, frame: int) -> Any:
        """Its image. Raises ValueError for another frame."""
        if frame != self.frame:
            raise ValueError(f"frame {frame} of this live session has passed: give its image, plot(image)")
        return self.image


class SessionFrames:
    """Which frames a session has, of what size, and their encoded images, of which it keeps the last few.

    Without a source the session is live: its frames are given one by one, and the first says their size.
    """

    def __init__(self, source: FrameSource | None, crop: Sequence[float] | None) -> None:
        self.source = source
        self.crop: Any = crop if crop is None or source is None else read_crop(crop, source.size)
        """The part x0, y0, x1, y1 of every frame that is looked at; None: all. Of a live session, checked at first."""
        self.known_size: tuple[int, int] | None = None
        self.encoded: OrderedDict[int, ImageFeatures] = OrderedDict()
        self.kept = CACHED_FRAMES
        """How many encoded frames are kept."""
        self.newest = NewestFrame()

    def __str__(self) -> str:
        if self.source is None:
            return "live"
        return "of unknown length" if self.length is None else f"{self.length} frames"

    @property
    def length(self) -> int | None:
        """The number of frames; None when it is not known, as for a stream."""
        return None if self.source is None else self.source.length

    @property
    def size(self) -> tuple[int, int]:
        """The video's (H, W). Raises ValueError before a live session has seen its first frame."""
        if self.known_size is None:
            if self.source is None:
                raise ValueError("a live session has no size before its first step")
            self.known_size = self.source.size
        return self.known_size

    @property
    def surplus(self) -> int | None:
        """The frame to drop next, when there are more encoded ones than are kept."""
        return next(iter(self.encoded)) if len(self.encoded) > self.kept else None

    def admit(self, size: tuple[int, int]) -> None:
        """Take the (H, W) of a live session's next frame. Raises ValueError for another size, or a crop outside it."""
        if self.known_size is not None and size != self.known_size:
            raise ValueError(f"all frames of a session have one size: {self.known_size}, this one {size}")
        self.crop = None if self.crop is None else read_crop(self.crop, size)
        self.known_size = size

    def picture(self, frame: int) -> Picture:
        """What reads a frame when its result is drawn; a result holds no frame."""
        return partial(self.newest.read if self.source is None else self.source.__getitem__, frame)

    def encode(self, frames: Sequence[int], given: Sequence[Tensor], model: Sam2) -> None:
        """Encode frames, or the crop of them, at once, and keep them: pixels (3, H, W) as given, or of the source."""
        if not frames:
            return
        values = given or [pixels_of(self.source[frame], model.device) for frame in frames]  # type: ignore[index]
        height, width = self.size
        x0, y0, x1, y1 = (0, 0, width, height) if self.crop is None else self.crop
        features = model.encode(torch.cat([to_model(each[:, y0:y1, x0:x1], model.image_size) for each in values]))
        self.encoded.update(zip(frames, features.apart(len(frames)), strict=True))

    def encoded_ahead(self, frames: Iterator[int], together: int, encode: Callable[[list[int]], None]) -> Iterator[int]:
        """The same frames, `together` of them encoded before the first is visited, where it is known which will be."""
        if together == 1 or self.source is None or self.length is None:
            yield from frames
            return
        self.source.remember(together)
        self.kept = max(self.kept, together)
        while some := list(itertools.islice(frames, together)):
            encode([frame for frame in itertools.takewhile(self._whole, some) if frame not in self.encoded])
            yield from some

    def _whole(self, frame: int) -> bool:
        """Whether a frame can be read. One that is damaged says so when its turn comes: those before are answered."""
        try:
            return self.source is not None and self.source[frame] is not None
        except FrameError:
            return False

    def exists(self, frame: int) -> bool:
        """Whether a source of unknown length has this frame."""
        return self.source is None or self.length is not None or self.source.has(frame)

    def check(self, frame: int, position: int | None) -> int:
        """The number of a frame; a live session has those up to `position`. Raises ValueError when there is none."""
        number = integer(frame)
        if number is None or number < 0:
            raise ValueError(f"a frame is a number from 0 on, not {frame!r}")
        frame = number
        if self.source is None:
            if position is None or frame > position:
                raise ValueError(f"frame {frame} has not come yet; prompts on the next frame go into step()")
        elif self.length is not None and frame >= self.length:
            raise ValueError(
                f"frame {frame} lies beyond the video's end: it has {self.length} frames, 0 to {self.length - 1}"
            )
        elif not self.exists(frame):
            raise ValueError(f"frame {frame} lies beyond the video's end")
        return frame

    def route(self, first: int, stop: int | None, direction: str) -> tuple[Route, int | None]:
        """The frames that a pass from `first` visits, and how many they are where that is known.

        `stop` is exclusive. Raises ValueError when there is nothing to visit.
        """
        last = self.length
        if direction == "both":
            if stop is not None:
                raise ValueError("stop has no meaning in both directions; propagate twice instead")
            plan: Route = [(self._walk(first, None, False), False)]
            if first > 0:
                plan.append((self._walk(first - 1, None, True), True))
            total = last
        else:
            backwards = direction == "backward"
            if backwards and first == 0 and stop is None:
                raise ValueError("nothing lies before frame 0; give a later start, or propagate forward")
            if stop is not None and (stop >= first if backwards else stop <= first):
                raise ValueError(f"no frame lies between start {first} and stop {stop} going {direction}")
            plan = [(self._walk(first, stop, backwards), backwards)]
            if backwards:
                total = first - (-1 if stop is None else stop)
            else:
                end = last if stop is None else stop if last is None else min(stop, last)
                total = None if end is None else end - first
        return plan, total

    def _walk(self, first: int, stop: int | None, backwards: bool) -> Iterator[int]:
        frame, step = first, -1 if backwards else 1
        while frame >= 0 and frame != stop:
            if self.length is not None and frame >= self.length:
                return
            yield frame
            frame += step

    def copy(self) -> SessionFrames:
        """The same frames, from where they are now: what one copy reads and keeps, the other does not see."""
        other = SessionFrames(self.source, None)
        other.crop, other.known_size = self.crop, self.known_size
        other.encoded = self.encoded.copy()
        other.kept, other.newest = self.kept, replace(self.newest)
        return other
