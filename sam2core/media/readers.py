"""Readers of what is at hand: lists, folders, patterns, arrays, iterators, functions. One kind of source each."""

from __future__ import annotations

import glob
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sam2core.media.files import PictureFile
from sam2core.media.images import Damage, Frame, as_frame, file_pixels, three
from sam2core.media.listing import SUFFIXES, is_picture, natural, pictures_in

WINDOW = 8
"""Frames that an iterator or a live source can still give back after they have passed."""


class Reader:
    """One kind of source. Calls never overlap, but where a source says that they may: `FrameSource` sees to that."""

    where: str
    """What messages call the source."""
    count: int | None = None
    """The number of frames, if it can be known before the end."""
    fps: float | None = None
    window = 1
    """Frames that `FrameSource` keeps for being asked again."""
    decodes = False
    """Whether reading is work that should be done ahead, in a thread."""
    overlaps = False
    """Whether several threads may read at once."""
    live = False
    note: str | None = None
    """What its user should know of the choice that was made, in a sentence."""

    @property
    def files(self) -> list[Path]:
        """The file of every frame; none where several share one."""
        return []

    def read(self, index: int) -> Frame:
        """A frame by its number, 0 or more. Raises IndexError beyond the end and Damage."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        return f"{index:05d}"

    def time(self, index: int) -> float | None:
        """Seconds from the first frame to a frame, where the source says it."""
        return None

    def label(self, index: int) -> str:
        """What messages call the place of a frame."""
        return self.where

    def forked(self) -> None:
        """Told in a process that was forked off, without its parent's threads. Raises ValueError if it ends there."""

    def close(self) -> None:
        """Release what is held; nothing is read afterwards."""


class Items(Reader):
    """A list of paths, arrays, PIL images and tensors, or anything else with a length and an index."""

    def __init__(self, items: Sequence[Any], where: str | None = None) -> None:
        self.where = f"the {type(items).__name__} of frames" if where is None else where
        self._items = items
        self.decodes = isinstance(items, list | tuple) and all(isinstance(item, str | os.PathLike) for item in items)
        self.overlaps = self.decodes
        self.count = len(items)

    def read(self, index: int) -> Frame:
        if index >= len(self._items):
            raise IndexError(index)
        try:
            item = self._items[index]
        except LookupError as error:
            raise Damage(f"asking for it raises {type(error).__name__}: {error}") from error
        return as_frame(item)

    @property
    def files(self) -> list[Path]:
        return [Path(item) for item in self._items] if self.decodes else []

    def name(self, index: int) -> str:
        return Path(self._items[index]).stem if self._has_path(index) else super().name(index)

    def label(self, index: int) -> str:
        return repr(os.fspath(self._items[index])) if self._has_path(index) else self.where

    def _has_path(self, index: int) -> bool:
        known = isinstance(self._items, list | tuple) and index < len(self._items)
        return known and isinstance(self._items[index], str | os.PathLike)


class Folder(Items):
    """The images in a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder)
        files = pictures_in(folder)
        if not files:
            raise ValueError(f"the folder {str(folder)!r} has no images ({', '.join(SUFFIXES)})")
        super().__init__(files, f"the folder {str(folder)!r}")


class Glob(Items):
    """The images that a pattern matches."""

    def __init__(self, pattern: str | os.PathLike[str]) -> None:
        pattern = os.fspath(pattern)
        files = [Path(match) for match in glob.glob(pattern, recursive=True) if is_picture(Path(match))]
        if not files:
            raise ValueError(f"the pattern {pattern!r} matches no images ({', '.join(SUFFIXES)})")
        super().__init__(sorted(files, key=natural), f"the pattern {pattern!r}")


class Pages(Reader):
    """An image file, whose images are the frames: TIFF stacks, animated PNG, WebP and GIF."""

    decodes = True
    KEPT_BYTES = 64 * 2**20
    """Animations are decoded from their start on: so much of what came on the way to a frame is kept."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = PictureFile(path)
        self.where = self._file.name
        self.count = self._file.count
        self._lock = threading.RLock()  # what is asked of times does not come through the thread that reads
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def read(self, index: int) -> Frame:
        if index >= self._file.count:
            raise IndexError(index)
        with self._lock:
            newest = max(self._kept, default=-1)
            for number in range(0 if self._file.in_order and index < newest else index, index + 1):
                if number not in self._kept:
                    self._keep(number)
            return self._kept[index].copy()

    def _keep(self, number: int) -> None:
        try:
            pixels = as_frame(file_pixels(self._file, number))
        except ValueError as error:
            raise Damage(str(error)) from error
        assert isinstance(pixels, np.ndarray)
        self._kept[number] = pixels
        while len(self._kept) > max(1, self.KEPT_BYTES // pixels.nbytes):
            self._kept.popitem(last=False)

    def name(self, index: int) -> str:
        return self._path.stem if self.count == 1 else super().name(index)

    @cached_property
    def _begin(self) -> list[float]:
        """When each image begins, and the last one ends, in seconds; none where the file does not say."""
        with self._lock:
            lasting = self._file.seconds
        return [] if lasting is None else [round(sum(lasting[:at]), 6) for at in range(len(lasting) + 1)]

    @property
    def fps(self) -> float | None:  # type: ignore[override]
        return self._file.count / self._begin[-1] if self._begin else None

    def time(self, index: int) -> float | None:
        return self._begin[index] if index < self._file.count and self._begin else None

    def forked(self) -> None:
        raise ValueError(f"{self.where} was opened before this process was forked off; open it in each process")

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
            self._file.close()


class Stack(Reader):
    """An array or a tensor (T, H, W, C) or (T, C, H, W). It is not copied: frames are, one by one."""

    def __init__(self, stack: np.ndarray | Tensor) -> None:
        shape = tuple(stack.shape)
        kind = "tensor" if isinstance(stack, Tensor) else "array"
        self.where = f"the {kind} of shape {shape}"
        if stack.ndim != 4:
            hint = "; a single image goes into a list, grey frames need a channel axis" if stack.ndim == 3 else ""
            raise ValueError(f"frames in one {kind} are (T, H, W, C) or (T, C, H, W), not {shape}{hint}")
        last, first = shape[3] in (1, 3, 4), shape[1] in (1, 3, 4)
        if last == first:
            why = "either axis could be the channels" if last else "no axis is 1, 3 or 4 channels"
            raise ValueError(
                f"frames in one {kind} are (T, H, W, C) or (T, C, H, W); for {shape}, {why}"
                + ("; give a list of frames instead" if last else "")
            )
        name = str(stack.dtype).removeprefix("torch.")
        if name not in ("uint8", "uint16") and not re.fullmatch(r"b?float\d+", name):
            raise ValueError(f"frames are uint8, uint16 or floating in [0, 1], not {name}")
        self._stack = stack
        self._channels_last = last
        self.count = shape[0]

    def read(self, index: int) -> Frame:
        if index >= self._stack.shape[0]:
            raise IndexError(index)
        picture = self._stack[index]
        if isinstance(picture, Tensor):
            return three(picture.detach().movedim(-1, 0) if self._channels_last else picture.detach())
        return three(picture if self._channels_last else picture.transpose(1, 2, 0))


class Stream(Reader):
    """Frames that come one after the other and only once."""

    window = WINDOW

    def __init__(self, frames: Iterable[Any], where: str | None = None) -> None:
        self.where = f"the {type(frames).__name__}" if where is None else where
        self._frames = iter(frames)
        self._next = 0

    def read(self, index: int) -> Frame:
        if index < self._next:
            raise ValueError(
                f"frame {index} of {self.where} has passed: only its last {self.window} frames are remembered, "
                f"the newest is {self._next - 1}"
            )
        while True:
            try:
                item = next(self._frames)
            except StopIteration:
                raise IndexError(index) from None
            self._next += 1
            if self._next > index:
                return as_frame(item)

    def close(self) -> None:
        self._frames = iter(())


class Function(Reader):
    """A function of the frame's number."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.where = f"the function {getattr(function, '__name__', type(function).__name__)}"
        self._function = function

    def read(self, index: int) -> Frame:
        item = self._function(index)
        if item is None:
            raise IndexError(index)
        return as_frame(item)
