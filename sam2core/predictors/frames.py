"""FrameSource: the frames of a video, wherever they lie, one at a time and none before it is wanted."""

from __future__ import annotations

import glob
import itertools
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from sam2core.predictors.transforms import _open, _unpack

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""The files that a folder of frames may hold; others in it are left alone."""
AHEAD = 3
"""Frames decoded in advance when frames are read in order."""
WINDOW = 8
"""Frames that an iterator or a live source can still give back after they have passed."""

Frame: TypeAlias = "np.ndarray | Tensor"


class FrameError(ValueError):
    """A frame cannot be had: its file is damaged, or it has another size than the ones before.

    `frame` is its index in the source; the message names it, the file and the cause.
    """

    def __init__(self, frame: int, message: str) -> None:
        super().__init__(message)
        self.frame = frame


class FrameSource:
    """The frames of a video; made by `open_source`.

    `source[i]` is frame i as an array (H, W, 3) of uint8 (uint16 or floating in [0, 1] where the pixels were given so),
    or as a tensor (3, H, W) where tensors were given; do not write into it. Frames are numbered from 0 after `start`
    and `stride` were applied. All methods may be called from several threads. Use it as a context manager, or `close`
    it, to end its thread at once; dropping the last reference does the same.
    """

    size: tuple[int, int]
    """(H, W) of every frame, after rotation."""

    def __init__(self, reader: Reader, *, start: int = 0, stop: int | None = None, stride: int = 1) -> None:
        for name, value, least in (("start", start, 0), ("stop", stop, 0), ("stride", stride, 1)):
            if value is None and name == "stop":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is a number of frames, {least} or more, not {value!r}")
        if stop is not None and stop <= start:
            raise ValueError(f"no frame lies between start {start} and stop {stop}")
        self._reader = reader
        self._start, self._stop, self._stride = start, stop, stride
        self._lock = threading.RLock()
        self._recent: OrderedDict[int, Frame] = OrderedDict()
        self._newest = -1
        self._last = -2
        self._end: int | None = None
        self._ahead = _Ahead(reader) if reader.decodes else None
        self._closed = False
        try:
            first = self._fetch(0)
        except IndexError:
            count = reader.count
            what = "is empty: it has no frame" if not start else f"has no frame {start} to start with"
            raise ValueError(f"{reader.where} {what}" + (f", but {count}" if start and count else "")) from None
        self.size = _size(first)

    @property
    def length(self) -> int | None:
        """The number of frames; None when it is not known before the end, as for iterators and cameras."""
        with self._lock:
            count = self._reader.count
        if count is None:
            return None
        return len(range(self._start, count if self._stop is None else min(count, self._stop), self._stride))

    @property
    def fps(self) -> float | None:
        """Frames per second, on average and after `stride`; None when the source does not say."""
        return None if self._reader.fps is None else self._reader.fps / self._stride

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace, from a camera or a stream."""
        return self._reader.live

    def name(self, frame: int) -> str:
        """What to call a frame's results: its file's stem, or its number before `start` and `stride` were applied."""
        return self._reader.name(self._start + frame * self._stride)

    def has(self, frame: int) -> bool:
        """Whether there is such a frame; where the length is not known, it is read to find out."""
        if frame < 0:
            return False
        length = self.length
        if length is not None:
            return frame < length
        with self._lock:
            if frame <= self._newest:
                return True
            if self._end is not None and frame >= self._end:
                return False
            try:
                self[frame]
            except IndexError:
                return False
            return True

    def __getitem__(self, frame: int) -> Frame:
        """A frame. Raises IndexError beyond the end, FrameError when it is damaged or of another size, ValueError when
        it has passed (iterators and live sources remember their last frames only) or the source was closed."""
        with self._lock:
            known = self._recent.get(frame)
            if known is not None:
                self._recent.move_to_end(frame)
                self._last = frame
                return known
            found = self._fetch(frame)
            if _size(found) != self.size:
                given, wanted = _size(found), self.size
                raise FrameError(
                    frame,
                    f"{self._where(frame)} is {given[1]}x{given[0]} pixels, but the ones before are "
                    f"{wanted[1]}x{wanted[0]}: all frames of a video have one size",
                )
            return found

    def __iter__(self) -> Iterator[Frame]:
        """Every frame in order, up to the end."""
        for frame in itertools.count():
            if not self.has(frame):
                return
            yield self[frame]

    def _fetch(self, frame: int) -> Frame:
        if self._closed:
            raise ValueError(f"{self._reader.where} was closed")
        raw = self._start + frame * self._stride
        stopped = self._stop is not None and raw >= self._stop
        if frame < 0 or stopped or (self._end is not None and frame >= self._end):
            raise IndexError(f"there is no frame {frame} in {self._reader.where}")
        try:
            if self._ahead is None:
                found = self._reader.read(raw)
            else:
                step = {1: self._stride, -1: -self._stride}.get(frame - self._last, 0)
                found = self._ahead.take(raw, step, self._start, self._stop)
        except IndexError:
            self._end = frame if self._end is None else min(self._end, frame)
            raise
        except Damage as error:
            raise FrameError(frame, f"{self._where(frame)} cannot be read: {error}") from error
        self._last = frame
        self._newest = max(self._newest, frame)
        self._recent[frame] = found
        while len(self._recent) > self._reader.window:
            self._recent.popitem(last=False)
        return found

    def _where(self, frame: int) -> str:
        raw = self._start + frame * self._stride
        return f"frame {frame}" + (f" (number {raw})" if raw != frame else "") + f" of {self._reader.label(raw)}"

    def close(self) -> None:
        """End the source and its thread; frames can no longer be read."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._recent.clear()
            if self._ahead is not None:
                self._ahead.close()
            self._reader.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(source: Any, *, start: int = 0, stop: int | None = None, stride: int = 1) -> FrameSource:
    """The frames `start` to `stop` of a source, every `stride`-th.

    `source` may be

    * a folder of pictures (jpg, png, webp, tif, bmp) of any names, in natural order: 2.jpg comes before 10.jpg;
    * a glob pattern, or a list of paths, arrays, PIL images and tensors;
    * an array or a tensor (T, H, W, C) or (T, C, H, W) of uint8, uint16 or floating values in [0, 1], C = 1, 3, 4;
    * a video file, a network address (``rtsp://``, ``http://``) or ``"camera:0"``, with the extra ``sam2core[video]``;
    * anything with a length and an index, or a function of the frame's number: random access;
    * any iterator, which is read as frames are wanted. It and live sources remember their last 8 frames only.

    Nothing is read before it is wanted, except the first frame. Video files and pictures are decoded ahead in a thread
    when they are read in order; iterators and functions run in the thread that asks. A function ends its video with
    an IndexError or None. Raises ValueError for anything else, for empty sources and files that are no videos, and
    FrameError where a frame is damaged.
    """
    if isinstance(source, FrameSource):
        if (start, stop, stride) != (0, None, 1):
            raise ValueError("start, stop and stride belong to the first opening; this source is open already")
        return source
    for fits, reader in READERS:
        if fits(source):
            return FrameSource(reader(source), start=start, stop=stop, stride=stride)
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    hint = "; one picture goes into a list" if isinstance(source, Image.Image) else ""
    raise ValueError(
        f"frames come from a folder, a glob pattern, a video file, an address, 'camera:0', a list, an array, a tensor, "
        f"an iterator or a function of the frame's number, not from {kind}{hint}"
    )


# readers: one kind of source each, frames by their number in it


class Damage(Exception):
    """A reader cannot give a frame; `FrameSource` says which."""


class Reader:
    """One kind of source. Calls never overlap: `FrameSource` sees to that."""

    where: str
    """What messages call the source."""
    count: int | None = None
    """The number of frames, if it can be known before the end."""
    fps: float | None = None
    window = 1
    """Frames that `FrameSource` keeps for being asked again."""
    decodes = False
    """Whether reading is work that should be done ahead, in a thread."""
    live = False

    def read(self, index: int) -> Frame:
        """A frame by its number, 0 or more. Raises IndexError beyond the end and Damage."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        return f"{index:05d}"

    def label(self, index: int) -> str:
        """What messages call the place of a frame."""
        return self.where

    def close(self) -> None:
        """Release what is held; nothing is read afterwards."""


class Items(Reader):
    """A list of paths, arrays, PIL images and tensors, or anything else with a length and an index."""

    def __init__(self, items: Sequence[Any], where: str | None = None) -> None:
        self.where = f"the {type(items).__name__} of frames" if where is None else where
        self._items = items
        self.decodes = isinstance(items, list | tuple) and all(isinstance(item, str | os.PathLike) for item in items)
        self.count = len(items)

    def read(self, index: int) -> Frame:
        if index >= len(self._items):
            raise IndexError(index)
        try:
            item = self._items[index]
        except LookupError as error:
            raise Damage(f"asking for it raises {type(error).__name__}: {error}") from error
        return _frame(item)

    def name(self, index: int) -> str:
        return Path(self._items[index]).stem if self._has_path(index) else super().name(index)

    def label(self, index: int) -> str:
        return repr(os.fspath(self._items[index])) if self._has_path(index) else self.where

    def _has_path(self, index: int) -> bool:
        known = isinstance(self._items, list | tuple) and index < len(self._items)
        return known and isinstance(self._items[index], str | os.PathLike)


class Folder(Items):
    """The pictures in a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder)
        files = [entry for entry in folder.iterdir() if _is_picture(entry)]
        if not files:
            raise ValueError(f"the folder {str(folder)!r} has no pictures ({', '.join(SUFFIXES)})")
        super().__init__(sorted(files, key=_natural), f"the folder {str(folder)!r}")


class Glob(Items):
    """The pictures that a pattern matches."""

    def __init__(self, pattern: str | os.PathLike[str]) -> None:
        pattern = os.fspath(pattern)
        files = [Path(match) for match in glob.glob(pattern, recursive=True) if _is_picture(Path(match))]
        if not files:
            raise ValueError(f"the pattern {pattern!r} matches no pictures ({', '.join(SUFFIXES)})")
        super().__init__(sorted(files, key=_natural), f"the pattern {pattern!r}")


class Stack(Reader):
    """An array or a tensor (T, H, W, C) or (T, C, H, W). It is not copied: frames are, one by one."""

    def __init__(self, stack: np.ndarray | Tensor) -> None:
        shape = tuple(stack.shape)
        kind = "tensor" if isinstance(stack, Tensor) else "array"
        self.where = f"the {kind} of shape {shape}"
        if stack.ndim != 4:
            hint = "; a single picture goes into a list, grey frames need a channel axis" if stack.ndim == 3 else ""
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
            return _three(picture.detach().movedim(-1, 0) if self._channels_last else picture.detach())
        return _three(picture if self._channels_last else picture.transpose(1, 2, 0))


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
                return _frame(item)

    def close(self) -> None:
        if hasattr(self._frames, "close"):
            self._frames.close()


class Function(Reader):
    """A function of the frame's number."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.where = f"the function {getattr(function, '__name__', type(function).__name__)}"
        self._function = function

    def read(self, index: int) -> Frame:
        item = self._function(index)
        if item is None:
            raise IndexError(index)
        return _frame(item)


def _is_text(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and isinstance(os.fspath(source), str)


def _is_folder(source: Any) -> bool:
    return _is_text(source) and os.path.isdir(source)


def _is_pattern(source: Any) -> bool:
    return _is_text(source) and glob.has_magic(os.fspath(source)) and not os.path.exists(source)


READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Reader]], ...] = (
    (_is_folder, Folder),
    (_is_pattern, Glob),
    (lambda source: isinstance(source, np.ndarray | Tensor), Stack),
    (lambda source: not _is_text(source) and hasattr(source, "__len__") and hasattr(source, "__getitem__"), Items),
    (lambda source: not _is_text(source) and hasattr(source, "__iter__"), Stream),
    (callable, Function),
)
"""Which reader takes which source: the first whose test holds."""


class _Ahead:
    """Reads the frames that will be wanted next, in one thread; every read of its reader happens there."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._thread: ThreadPoolExecutor | None = None
        self._coming: dict[int, Future[Frame]] = {}

    def take(self, index: int, step: int, first: int, stop: int | None) -> Frame:
        """A frame, after arranging for the ones that follow it in steps of `step` (0: none) in [first, stop)."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
            weakref.finalize(self, self._thread.shutdown, wait=False, cancel_futures=True).atexit = False
        plan = [index]
        if step:
            plan += [index + step * ahead for ahead in range(1, AHEAD + 1)]
            plan = [at for at in plan if at >= first and (stop is None or at < stop)]
        for at in [at for at in self._coming if at not in plan]:
            self._coming.pop(at).cancel()
        for at in plan:
            if at not in self._coming:
                self._coming[at] = self._thread.submit(self._reader.read, at)
        return self._coming.pop(index).result()

    def close(self) -> None:
        self._coming.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)


def _natural(path: Path) -> tuple[Any, ...]:
    """Sorts numbers in names by their value; ties by the name itself, so that the order never depends on the disk's."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if at % 2 else part.lower() for at, part in enumerate(parts)], str(path)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _frame(item: Any) -> Frame:
    """A picture of any kind that `read_image` takes, with three channels; its values are left as they are."""
    try:
        if _is_text(item):
            item = _open(Path(item))
        if isinstance(item, Image.Image):
            item = _unpack(item)
    except ValueError as error:
        raise Damage(str(error)) from error
    if isinstance(item, np.ndarray):
        if item.ndim == 2:
            item = item[:, :, None]
        if item.ndim == 3 and item.shape[2] in (1, 3, 4) and item.size:
            return _three(item)
        raise Damage(f"a frame as an array is (H, W) or (H, W, 1 | 3 | 4), not {item.shape}")
    if isinstance(item, Tensor):
        if item.ndim == 3 and item.shape[0] in (1, 3, 4) and item.numel():
            return _three(item.detach())
        raise Damage(f"a frame as a tensor is (1 | 3 | 4, H, W), not {tuple(item.shape)}")
    raise Damage(f"a frame is a path, a PIL image, an array or a tensor, not {type(item).__name__}")


def _three(picture: Frame) -> Frame:
    """A copy of one picture with three channels: grey is repeated, an alpha channel dropped (as `read_image` does)."""
    if isinstance(picture, Tensor):
        return picture[:3].expand(3, -1, -1).clone() if picture.shape[0] != 3 else picture.clone()
    if picture.shape[2] == 1:
        return np.repeat(picture, 3, axis=2)
    return np.array(picture[:, :, :3], order="C", subok=False)


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.shape[-2:] if isinstance(frame, Tensor) else frame.shape[:2]
    return int(height), int(width)
