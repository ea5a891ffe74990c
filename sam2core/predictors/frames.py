"""FrameSource: the frames of a video, wherever they lie, one at a time and none before it is wanted."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
import re
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from sam2core.predictors.transforms import open_image, unpack_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""The files that a folder of frames may hold; others in it are left alone."""
AHEAD = 3
"""Frames decoded in advance when frames are read in order."""
WINDOW = 8
"""Frames that an iterator or a live source can still give back after they have passed."""

ADDRESSES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}", "{}"),
    "darwin": ("avfoundation", "{}", "{}"),
    "win32": ("dshow", "video={}", "video={}"),
}
"""How FFmpeg reaches cameras: its name for the system's interface, a camera by number, and one by name."""
TIMEOUT = 10.0
"""Seconds without data after which a camera or a stream has ended."""

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
        self._frames = iter(())


class Video(Reader):
    """A video file, decoded with PyAV.

    Frames are numbered by their times, which are taken once from the file's packets: a number means the same frame
    however it is reached, and at a variable frame rate too. Where the packets have no times the pictures are counted
    instead, and the length is not known. Pictures are turned and mirrored as the file says, by right angles.
    """

    KEPT = 4
    """Decoded pictures kept for small steps back."""
    KEPT_BACKWARDS = 32
    """The same when reading backwards, where one seek decodes a whole run of them; fewer when they are large."""
    KEPT_BYTES = 128 * 2**20

    decodes = True
    _container: Any = None
    _pictures: Iterator[Any]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        self.where = repr(str(path))
        if not path.is_file():
            raise ValueError(f"there is no file or folder {str(path)!r}{_did_you_mean(path)}")
        self._path = path
        self._packets: Packets | None = None
        self._indexing = threading.Lock()
        self._asked = 0
        self._start(None)
        try:
            first = next(self._pictures, None)
        except Damage as error:
            raise ValueError(f"no picture of {self.where} can be decoded: {error}") from error
        if first is None:
            raise ValueError(f"{self.where} is empty: it has no frame")
        self._first = first.pts
        self._position: int | None = 0  # the number of the picture that came last; None: the decoder must start anew
        self._kept: OrderedDict[int, Any] = OrderedDict({0: first})
        self._keep = self.KEPT
        self.fps = _rate(self._stream)

    @property
    def count(self) -> int | None:  # type: ignore[override]
        """The number of frames, one more where the file breaks off: asking for that one raises Damage."""
        packets = self._index()
        return None if packets is None else len(packets.times) + (packets.cut is not None)

    def _index(self) -> Packets | None:
        """The times of the packets, or None if they have none; made when first asked for, by whichever thread."""
        with self._indexing:
            if self._packets is None:
                self._packets = Packets(self._path, self._first)
            return self._packets if self._packets.timed else None

    def read(self, index: int) -> Frame:
        before, self._asked = self._asked, index
        if index not in self._kept:
            packets = self._index()
            if packets is None:
                self._count_to(index)
            else:
                self._find(index, packets, backwards=0 < before - index <= WINDOW)
        return _rgb(self._kept[index])

    def _count_to(self, index: int) -> None:
        if self._position is None or index <= self._position:
            self._start(None)
            self._position = -1
        if not self._reach(index, None):
            raise IndexError(index)

    def _find(self, index: int, packets: Packets, *, backwards: bool) -> None:
        """Decode on to a frame if that is the shortest way, otherwise from the key frame before it."""
        if index >= len(packets.times):
            if packets.cut is not None and index == len(packets.times):
                raise Damage(packets.cut)
            raise IndexError(index)
        damage = Damage("the decoder gives no picture for it")
        keys = packets.keys(index)
        self._keep = self.KEPT
        if self._position is not None and packets.rank(keys[0]) <= self._position + 1 <= index:
            if not self._reach(index, packets):
                raise damage
            return
        if backwards:
            size = self._stream.codec_context.width * self._stream.codec_context.height * 3 // 2
            self._keep = max(self.KEPT, min(self.KEPT_BACKWARDS, self.KEPT_BYTES // max(size, 1)))
        for key in keys:  # pictures may need what lies before their key frame: then the one before it serves
            self._seek(key, packets)
            try:
                if self._reach(index, packets):
                    return
            except Damage as error:
                damage = error
        raise damage

    def _reach(self, index: int, packets: Packets | None) -> bool:
        """Decode forward to a frame, keeping the last ones on the way; False when it does not come."""
        number = self._position
        self._position = None
        for picture in self._pictures:
            if packets is None:
                assert number is not None
                number += 1
            else:
                number = packets.number(picture.pts)
                if number is None:
                    continue
            self._kept[number] = picture
            self._kept.move_to_end(number)
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
            if number >= index:
                self._position = number
                return number == index
        return False

    def _seek(self, key: int, packets: Packets) -> None:
        """Put the decoder before a key frame; where the demuxer landed is checked, as its times are not those shown."""
        for landmark in packets.landmarks(key):
            try:
                self._container.seek(landmark, stream=self._stream)
                arrived = self._container.demux(self._stream)
                first = next((packet for packet in arrived if packets.order(packet.pts) is not None), None)
            except _av().FFmpegError:  # a file that cannot be sought in
                break
            if first is not None and packets.before(first.pts, key):
                self._pictures = _decoded(itertools.chain([first], arrived), self._stream, packets.time(key))
                return
        self._start(packets.time(key))

    def _start(self, time: int | None) -> None:
        """Open the file, again if it was open; decoding begins with the packet of that time."""
        self.close()
        self._container, self._stream = _open_video(str(self._path), self.where)
        self._pictures = _decoded(self._container.demux(self._stream), self._stream, time)

    def close(self) -> None:
        self._pictures = iter(())
        if self._container is not None:
            self._container.close()


class Packets:
    """What the packets of a video file say of its frames, without decoding one.

    `times` are those of the frames, sorted; `timed` is False when they do not tell the frames apart; `cut` says where
    the file breaks off, if it does.
    """

    def __init__(self, path: Path, first: int | None) -> None:
        container, stream = _open_video(str(path), repr(str(path)))
        times: list[int | None] = []
        keys, unseen = [], []
        begun: int | None = None  # the latest time at which decoding began: whatever comes later is shown later
        self.cut: str | None = None
        with container:
            vp8 = stream.codec_context.name == "vp8"
            try:
                for packet in container.demux(stream):
                    if packet.size == 0 and packet.pts is None:
                        continue
                    if packet.is_keyframe:
                        keys.append(len(times))
                    hidden = vp8 and packet.size > 0 and not memoryview(packet)[0] & 0x10  # RFC 6386, 9.1: show_frame
                    if hidden or packet.is_discard:
                        unseen.append(len(times))
                    begun = begun if packet.dts is None else packet.dts
                    times.append(packet.pts)
            except _av().FFmpegError as error:
                self.cut = f"the file cannot be read on: {error.strerror}"
            declared, end = stream.frames, _end(container, stream)
        missing = _missing_bytes(path)
        if missing:
            self.cut = f"the file is cut off: {missing} bytes are missing at its end"
        self.timed = first is not None and None not in times and len(set(times)) == len(times)
        self._order_times = np.array(times if self.timed else [], dtype=np.int64)
        shown = np.delete(self._order_times, unseen if self.timed else [])
        self.times = np.sort(shown[shown >= (first or 0)])  # what comes before the first picture cannot be decoded
        self._sorted = np.argsort(self._order_times)
        self._keys = np.array(keys, dtype=np.int64)
        if self.cut is not None and len(self.times) > 1:
            shortest = int(np.diff(self.times).min())
            if 0 < declared <= len(shown) or (end is not None and self.times[-1] + 2 * shortest > end):
                self.cut = None  # what is missing is no frame
            else:
                self._drop_after_a_gap(begun, shortest)

    def _drop_after_a_gap(self, begun: int | None, shortest: int) -> None:
        """Leave out the frames at the end of a cut file whose predecessors on screen came later in it, and are lost."""
        sure = int(np.searchsorted(self.times, self.times[0] if begun is None else begun, side="right"))
        gaps = np.flatnonzero(np.diff(self.times) >= 2 * shortest)
        gaps = gaps[gaps + 1 >= sure]
        if len(gaps):
            self.times = self.times[: gaps[0] + 1]

    def number(self, time: int | None) -> int | None:
        """The frame that is shown at a time."""
        return _place(self.times, time)

    def order(self, time: int | None) -> int | None:
        """The place in the file of the packet with a time."""
        at = _place(self._order_times, time, self._sorted)
        return None if at is None else int(self._sorted[at])

    def before(self, time: int, key: int) -> bool:
        """Whether the packet with a time is that key frame, or lies before it in the file."""
        order = self.order(time)
        return order is not None and order <= key

    def time(self, packet: int) -> int:
        return int(self._order_times[packet])

    def rank(self, packet: int) -> int:
        """The number of frames shown before a packet's."""
        return int(np.searchsorted(self.times, self._order_times[packet]))

    def keys(self, frame: int) -> list[int]:
        """The packets of the key frames to decode a frame from, best first; they precede it in the file and in time."""
        order = self.order(int(self.times[frame]))
        assert order is not None
        near = self._keys[: np.searchsorted(self._keys, order, side="right")][-8:]
        return near[self._order_times[near] <= self.times[frame]][::-1][:3].tolist() or [0]

    def landmarks(self, key: int) -> list[int]:
        """Times to seek to for a key frame: its own, and earlier ones in case that leads behind it."""
        near = self._keys[: np.searchsorted(self._keys, key, side="right")]
        return self._order_times[near[::-1][:3]].tolist()


class Live(Stream):
    """Frames that come at their own pace: the newest one is given, those that nobody was in time for are dropped."""

    live = True

    def __init__(self, frames: Iterator[Any], where: str, fps: float | None = None) -> None:
        self._latest = Latest(frames)
        super().__init__(self._latest, where)
        self.fps = fps
        weakref.finalize(self, self._latest.end).atexit = False
        threading.Thread(target=self._latest.pump, name="frames", daemon=True).start()

    def close(self) -> None:
        self._latest.close()
        super().close()


class Latest:
    """One slot between the thread that receives frames and the one that asks for them."""

    def __init__(self, frames: Iterator[Any]) -> None:
        self._frames = frames
        self._changed = threading.Condition()
        self._item: Any = None
        self._ended = False
        self._gone = threading.Event()

    def pump(self) -> None:
        """Receive frames until they end, or nobody wants them any more."""
        try:
            for item in self._frames:
                if self._ended:
                    return
                with self._changed:
                    self._item = item
                    self._changed.notify_all()
        except Damage:
            return  # a camera that was unplugged, a stream that broke off: the video ends here
        finally:
            self._frames = iter(())  # closes what they come from
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._gone.set()

    def __iter__(self) -> Latest:
        return self

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._ended)
            item, self._item = self._item, None
        if item is None:
            raise StopIteration
        return item

    def end(self) -> None:
        """Let the thread end after the frame it waits for; takes no lock, as garbage collection calls it anywhere."""
        self._ended = True

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._item = None
            self._changed.notify_all()
        self._gone.wait(TIMEOUT)


def network(address: str) -> Reader:
    """A network address: live, unless it says how long it is, in which case no frame is dropped."""
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    container, stream = _open_video(address, repr(address), options=options, timeout=TIMEOUT)
    if container.duration is None:
        return Live(_received(container, stream), repr(address), _rate(stream))
    reader = Stream(_received(container, stream), repr(address))
    reader.fps = _rate(stream)
    return reader


def camera(name: str) -> Reader:
    """``"camera:0"``: a camera by its number, or by what the system calls it."""
    device = name.removeprefix("camera:")
    if sys.platform not in CAMERAS:
        raise ValueError(f"cameras are known on {', '.join(CAMERAS)}, not on {sys.platform}")
    system, numbered, named = CAMERAS[sys.platform]
    path = (numbered if device.isdigit() else named).format(device)
    container, stream = _open_video(path, repr(name), format=system, timeout=TIMEOUT)
    return Live(_received(container, stream), repr(name), _rate(stream))


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


def _is_address(source: Any) -> bool:
    return isinstance(source, str) and source.lower().startswith(ADDRESSES)


def _is_camera(source: Any) -> bool:
    return isinstance(source, str) and source.startswith("camera:")


def _is_pattern(source: Any) -> bool:
    return _is_text(source) and glob.has_magic(os.fspath(source)) and not os.path.exists(source)


READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Reader]], ...] = (
    (_is_address, network),
    (_is_camera, camera),
    (_is_folder, Folder),
    (_is_pattern, Glob),
    (lambda source: _is_text(source) and _is_picture(Path(source)), lambda source: Items([source])),
    (_is_text, Video),
    (lambda source: isinstance(source, np.ndarray | Tensor), Stack),
    (lambda source: hasattr(source, "__len__") and hasattr(source, "__getitem__"), Items),
    (lambda source: hasattr(source, "__iter__"), Stream),
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


def _av() -> Any:
    """PyAV, which only videos need."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'video files, addresses and cameras need PyAV, which is not installed: pip install "sam2core[video]" '
            "(folders of pictures, arrays and iterators go without)",
            name=error.name,
        ) from None
    return av


def _open_video(path: str, where: str, **options: Any) -> tuple[Any, Any]:
    """A container and its video stream."""
    av = _av()
    missing = _missing_bytes(Path(path)) if os.path.isfile(path) else 0
    cut = f"; it is cut off, {missing} bytes are missing at its end" if missing else ""
    try:
        container = av.open(path, **options)
    except av.FFmpegError as error:
        raise ValueError(f"{where} is no video that can be opened: {error.strerror}{cut}") from error
    if not container.streams.video:
        found = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
        container.close()
        raise ValueError(f"{where} has no video in it, only {found}{cut}")
    return container, container.streams.video[0]


def _end(container: Any, stream: Any) -> int | None:
    """When the last frame ends by what the file says, in the stream's unit of time."""
    if stream.duration is not None:
        return int(stream.duration + (stream.start_time or 0))
    if container.duration is None:
        return None
    return int((container.duration + (container.start_time or 0)) / 1_000_000 / stream.time_base)


def _rate(stream: Any) -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _decoded(packets: Iterator[Any], stream: Any, time: int | None = None) -> Iterator[Any]:
    """The pictures of packets, in the order they are shown, from the packet with that time on.

    Raises Damage at the first packet that cannot be decoded, after the pictures shown before it and decoded already.
    """
    errors = _av().FFmpegError
    sent: deque[int | None] = deque(maxlen=64)
    packet = None
    try:
        for packet in packets:
            if time is not None:
                if packet.pts != time:
                    continue
                time = None
            for picture in packet.decode():
                if picture.is_corrupt:
                    raise Damage("its data are damaged")
                yield picture
            sent.append(packet.pts)
    except errors as error:
        try:
            waiting = stream.codec_context.decode(None)
        except errors:
            waiting = []
        end = None if packet is None else packet.pts
        for picture in waiting:
            if picture.is_corrupt or picture.pts not in sent or (end is not None and picture.pts > end):
                break
            yield picture
        raise Damage(f"the file is damaged here ({error.strerror})") from error


def _received(container: Any, stream: Any) -> Iterator[Any]:
    with container:
        yield from _decoded(container.demux(stream), stream)


def _rgb(picture: Any) -> np.ndarray:
    """A decoded picture as (H, W, 3) uint8, turned and mirrored the way it is to be seen, by right angles."""
    pixels = picture.to_ndarray(format="rgb24")
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _place(ordered: np.ndarray, value: int | None, sorter: np.ndarray | None = None) -> int | None:
    """Where a value lies in a sorted array, if it does."""
    if value is None:
        return None
    at = int(np.searchsorted(ordered, value, sorter=sorter))
    if at == len(ordered):
        return None
    return at if ordered[at if sorter is None else sorter[at]] == value else None


def _missing_bytes(path: Path) -> int:
    """How many bytes a file lacks by what its own headers say: ISO boxes (mp4, mov), RIFF (avi), EBML (mkv, webm)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return max(0, _boxes_end(file, size) - size)
        if head[:4] == b"RIFF":
            return max(0, 8 + int.from_bytes(head[4:8], "little") - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _segment_end(head) - size)
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level box of an ISO file ends (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or not head[4:8].isalnum():  # up to the end, or no box at all
            return size
        at += length
    return at


def _segment_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends, 0 if it does not say (RFC 8794: an element is id, size, body)."""
    size, at = _ebml_size(head, 4)
    at += size or 0
    if size is None or head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _ebml_size(head, at + 4)
    return 0 if size is None else at + size


def _ebml_size(head: bytes, at: int) -> tuple[int | None, int]:
    """The size written at a place, None if it is left open, and where the body begins (RFC 8794, 4)."""
    width = 9 - head[at].bit_length() if at < len(head) else 9
    value = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    at += width
    known = width <= 8 and at <= len(head) and value != (1 << 7 * width) - 1
    return (value if known else None), at


def _did_you_mean(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""


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
            item = open_image(Path(item))
        if isinstance(item, Image.Image):
            item = unpack_image(item)
    except ValueError as error:
        raise Damage(str(error)) from error
    if type(item).__module__.startswith("av.video"):
        item = _rgb(item)
    if isinstance(item, np.ndarray):
        if item.ndim == 2:
            item = item[:, :, None]
        if item.ndim == 3 and item.shape[2] in (1, 3, 4) and item.size:
            return _three(item)
        raise Damage(f"a frame as an array is (H, W) or (H, W, 1 | 3 | 4), not {item.shape}")
    if isinstance(item, Tensor):
        if item.ndim == 4 and item.shape[0] == 1:
            item = item[0]
        if item.ndim == 3 and item.shape[0] in (1, 3, 4) and item.numel():
            return _three(item.detach())
        raise Damage(f"a frame as a tensor is (1 | 3 | 4, H, W), not {tuple(item.shape)}")
    raise Damage(f"a frame is a path, a PIL image, an array or a tensor, not {type(item).__name__}")


def _three(picture: Frame) -> Frame:
    """A copy of one picture with three channels: grey is repeated, an alpha channel dropped (as `read_image` does)."""
    if isinstance(picture, Tensor):
        return picture[:3].expand(3, -1, -1).clone() if picture.shape[0] != 3 else picture.clone()
    if picture.shape[2] == 1:
        return np.repeat(np.asarray(picture), 3, axis=2)
    return np.array(picture[:, :, :3], order="C", subok=False)


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.shape[-2:] if isinstance(frame, Tensor) else frame.shape[:2]
    return int(height), int(width)
