"""FrameSource: the frames of a video, wherever they lie, one at a time and none before it is wanted."""

from __future__ import annotations

import glob
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sam2core.annotations import integer
from sam2core.media.decoding import Video
from sam2core.media.images import Damage, Frame, is_text
from sam2core.media.listing import is_picture
from sam2core.media.live import ADDRESSES, camera, network
from sam2core.media.readers import Folder, Function, Glob, Items, Pages, Reader, Stack, Stream

ANIMATED = (".gif", ".apng", ".avif")
"""Image files that are videos, beside those that a folder of frames may hold."""
AHEAD = 3
"""Frames decoded in advance when frames are read in order."""


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
            if (number := integer(value)) is None or number < least:
                raise ValueError(f"{name} is a number of frames, {least} or more, not {value!r}")
        if stop is not None and stop <= start:
            raise ValueError(f"no frame lies between start {start} and stop {stop}")
        self._reader = reader
        self._start, self._stop, self._stride = int(start), None if stop is None else int(stop), int(stride)
        self._lock = threading.RLock()
        self._recent: OrderedDict[int, Frame] = OrderedDict()
        self._window = 0
        self._newest = -1
        self._last = -2
        self._end: int | None = None
        self._ahead = _Ahead(reader) if reader.decodes else None
        self._closed = False
        try:
            self.size = _size(self._fetch(0))
        except IndexError:
            count = reader.count
            self.close()
            what = "is empty: it has no frame" if not count else f"has {count} frames, none from {start} on"
            raise ValueError(f"{reader.where} {what}") from None
        except BaseException:
            self.close()
            raise

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

    @property
    def note(self) -> str | None:
        """What its user should know of how the source was read, in a sentence: which of several video streams."""
        return self._reader.note

    def time(self, frame: int) -> float | None:
        """When a frame is shown, in seconds after frame 0; None where the source does not say."""
        times = [self._reader.time(self._start + at * self._stride) for at in (0, frame)]
        return None if times[0] is None or times[1] is None else times[1] - times[0]

    def name(self, frame: int) -> str:
        """What to call a frame's results: its file's stem, or its number before `start` and `stride` were applied."""
        return self._reader.name(self._start + frame * self._stride)

    @property
    def files(self) -> list[Path]:
        """The file of every frame of the video, whatever part of it is seen; none where several share one."""
        return self._reader.files

    def remember(self, frames: int) -> None:
        """Keep so many frames at least for being asked again, as whoever reads some of them at once will."""
        with self._lock:
            self._window = max(self._window, frames)

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
                return known
            return self._fetch(frame)

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
        if self._newest >= 0 and _size(found) != self.size:
            given, wanted = _size(found), self.size
            raise FrameError(
                frame,
                f"{self._where(frame)} is {given[1]}x{given[0]} pixels, but the ones before are "
                f"{wanted[1]}x{wanted[0]}: all frames of a video have one size",
            )
        self._last = frame
        self._newest = max(self._newest, frame)
        self._recent[frame] = found
        while len(self._recent) > max(self._reader.window, self._window):
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

    * a folder of images (jpg, png, webp, tif, bmp) of any names, in natural order: 2.jpg comes before 10.jpg;
    * a glob pattern, or a list of paths, arrays, PIL images and tensors;
    * an array or a tensor (T, H, W, C) or (T, C, H, W) of uint8, uint16 or floating values in [0, 1], C = 1, 3, 4;
    * an image file with any number of images: a TIFF stack, an animated PNG, WebP or GIF;
    * a video file, a network address (``rtsp://``, ``http://``) or ``"camera:0"``, with the extra ``sam2core[video]``;
    * anything with a length and an index, or a function of the frame's number: random access;
    * any iterator, which is read as frames are wanted. It and live sources remember their last 8 frames only.

    Nothing is read before it is wanted, except the first frame. Video files and images are decoded ahead in a thread
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
    hint = "; one image goes into a list" if isinstance(source, Image.Image) else ""
    raise ValueError(
        f"frames come from a folder, a glob pattern, a video file, an address, 'camera:0', a list, an array, a tensor, "
        f"an iterator or a function of the frame's number, not from {kind}{hint}"
    )


def _is_folder(source: Any) -> bool:
    return is_text(source) and os.path.isdir(source)


def _is_picture_file(path: Path) -> bool:
    return is_picture(path) or (path.suffix.lower() in ANIMATED and path.is_file())


def _is_address(source: Any) -> bool:
    return isinstance(source, str) and source.lower().startswith(ADDRESSES)


def _is_camera(source: Any) -> bool:
    return isinstance(source, str) and source.startswith("camera:")


def _is_pattern(source: Any) -> bool:
    return is_text(source) and glob.has_magic(os.fspath(source)) and not os.path.exists(source)


READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Reader]], ...] = (
    (_is_address, network),
    (_is_camera, camera),
    (_is_folder, Folder),
    (_is_pattern, Glob),
    (lambda source: is_text(source) and _is_picture_file(Path(source)), Pages),
    (is_text, Video),
    (lambda source: isinstance(source, np.ndarray | Tensor), Stack),
    (lambda source: hasattr(source, "__len__") and hasattr(source, "__getitem__"), Items),
    (lambda source: hasattr(source, "__iter__"), Stream),
    (callable, Function),
)
"""Which reader takes which source: the first whose test holds."""


class _Ahead:
    """Reads the frames that will be wanted next; every read of its reader happens in its thread, or in several.

    Several where frames are files of their own, which are decoded side by side.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._thread: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._coming: dict[int, Future[Frame]] = {}

    def take(self, index: int, step: int, first: int, stop: int | None) -> Frame:
        """A frame, after arranging for the ones that follow it in steps of `step` (0: none) in [first, stop)."""
        if self._process != os.getpid():  # forked off, as data loaders' workers are: the thread was left behind
            self._reader.forked()
            self._process, self._thread, self._coming = os.getpid(), None, {}
        if self._thread is None:
            self._thread = ThreadPoolExecutor(AHEAD if self._reader.overlaps else 1, thread_name_prefix="frames")
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
        if self._thread is not None and self._process == os.getpid():
            self._thread.shutdown(wait=True, cancel_futures=True)


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.shape[-2:] if isinstance(frame, Tensor) else frame.shape[:2]
    return int(height), int(width)
