"""Reading video files with PyAV: frames by their number, exactly, however they are reached."""

from __future__ import annotations

import difflib
import itertools
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sam2core.media.containers import missing_bytes
from sam2core.media.images import Damage, Frame, rgb
from sam2core.media.readers import WINDOW, Reader

VOP = b"\0\0\1\xb6"
"""Begins an image in MPEG-4 part 2. Where a packet holds two (DivX's and Xvid's way to have B-frames in AVI), the
packets' times are not those of the images."""


class Video(Reader):
    """A video file, decoded with PyAV.

    Frames are numbered by their times, which are taken once from the file's packets: a number means the same frame
    however it is reached, and at a variable frame rate too. Where the packets have no times, or wrong ones, the
    images are counted instead, and the length is not known. Of several video streams the best is read, as FFmpeg
    chooses it. Images are turned and mirrored as the file says, by right angles.
    """

    KEPT = 4
    """Decoded images kept for small steps back."""
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
        self._path = path.absolute()  # FFmpeg takes the beginning of 'co:lon.mp4' for a protocol
        self._cut = missing_bytes(self._path) > 0
        self._packets: Packets | None = None
        self._indexing = threading.Lock()
        self._asked = 0
        self._start(None)
        try:
            first = next(self._pictures, None)
        except Damage as error:
            raise ValueError(f"no image of {self.where} can be decoded: {error}") from error
        if first is None:
            raise ValueError(f"{self.where} is empty: it has no frame")
        self._first = first.pts
        self._unit = self._stream.time_base
        self._position: int | None = 0  # the number of the image that came last; None: the decoder must start anew
        self._kept: OrderedDict[int, Any] = OrderedDict({0: first})
        self._keep = self.KEPT
        self.fps = rate(self._stream)
        self.note = _told(self._container, self._stream, self.where)

    @property
    def count(self) -> int | None:  # type: ignore[override]
        """The number of frames, one more where the file breaks off: asking for that one raises Damage."""
        packets = self._index()
        return None if packets is None else len(packets.times) + (packets.cut is not None)

    def time(self, index: int) -> float | None:
        packets = self._index()
        if packets is None or index >= len(packets.times):
            return None
        return float(int(packets.times[index] - packets.times[0]) * self._unit)

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
                self._count_to(index, backwards=0 < before - index <= WINDOW)
            else:
                self._find(index, packets, backwards=0 < before - index <= WINDOW)
        return rgb(self._kept[index])

    def _count_to(self, index: int, *, backwards: bool) -> None:
        self._keep = self._kept_backwards() if backwards else self.KEPT
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
        damage = Damage("the decoder gives no image for it")
        keys = packets.keys(index)
        self._keep = self.KEPT
        if self._position is not None and packets.rank(keys[0]) <= self._position + 1 <= index:
            if not self._reach(index, packets):
                raise damage
            return
        if backwards:
            self._keep = self._kept_backwards()
        for key in keys:  # images may need what lies before their key frame: then the one before it serves
            self._seek(key, packets)
            try:
                if self._reach(index, packets):
                    return
            except Damage as error:
                damage = error
        raise damage

    def _kept_backwards(self) -> int:
        size = self._stream.codec_context.width * self._stream.codec_context.height * 3 // 2
        return max(self.KEPT, min(self.KEPT_BACKWARDS, self.KEPT_BYTES // max(size, 1)))

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
        """Put the decoder before a key frame; where the demuxer landed is checked, as its times are not those shown.

        Nor need they be those it told when it read the file from its start: the key frame must have its size, too.
        """
        for landmark in packets.landmarks(key):
            try:
                self._container.seek(landmark, stream=self._stream)
                arrived = self._container.demux(self._stream)
                first = next((packet for packet in arrived if packets.reaches(packet, key)), None)
            except pyav().FFmpegError:  # a file that cannot be sought in
                break
            if first is not None and packets.is_packet(first, key):
                self._pictures = _decoded(itertools.chain([first], arrived), self._stream)
                return
        self._start(packets.time(key))

    def _start(self, time: int | None) -> None:
        """Open the file, again if it was open; decoding begins with the packet of that time."""
        self.close()
        self._container, self._stream = open_video(str(self._path), self.where)
        if not self._cut:  # several pictures at once where the codec can, which keep to themselves where one is damaged
            self._stream.thread_type = "AUTO"
        self._pictures = _decoded(self._container.demux(self._stream), self._stream, time)

    def forked(self) -> None:
        raise ValueError(f"{self.where} was opened before this process was forked off; open it in each process")

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
        container, stream = open_video(str(path), repr(str(path)))
        times: list[int | None] = []
        keys, unseen, sizes = [], [], []
        begun: int | None = None  # the latest time at which decoding began: whatever comes later is shown later
        self.cut: str | None = None
        with container:
            vp8 = stream.codec_context.name == "vp8"
            packed, mpeg4 = False, stream.codec_context.name == "mpeg4"
            try:
                for packet in container.demux(stream):
                    if packet.size == 0 and packet.pts is None:
                        continue
                    if packet.is_keyframe:
                        keys.append(len(times))
                    packed = packed or (mpeg4 and memoryview(packet).tobytes().count(VOP) > 1)
                    hidden = vp8 and packet.size > 0 and not memoryview(packet)[0] & 0x10  # RFC 6386, 9.1: show_frame
                    if hidden or packet.is_discard:
                        unseen.append(len(times))
                    begun = begun if packet.dts is None else packet.dts
                    times.append(packet.pts)
                    sizes.append(packet.size)
            except pyav().FFmpegError as error:
                self.cut = f"the file cannot be read on: {error.strerror}"
            declared, end = stream.frames, _end(container, stream)
        missing = missing_bytes(path)
        if missing:
            self.cut = f"the file is cut off: {missing} bytes are missing at its end"
        self.timed = first is not None and None not in times and len(set(times)) == len(times) and not packed
        self._order_times = np.array(times if self.timed else [], dtype=np.int64)
        shown = np.delete(self._order_times, unseen if self.timed else [])
        self.times = np.sort(shown[shown >= (first or 0)])  # what comes before the first image cannot be decoded
        self._sorted = np.argsort(self._order_times)
        self._keys = np.array(keys, dtype=np.int64)
        self._sizes = np.array(sizes, dtype=np.int64)
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

    def reaches(self, packet: Any, key: int) -> bool:
        """Whether a packet that was read lies no further before that one in the file."""
        order = self.order(packet.pts)
        return order is not None and order >= key

    def is_packet(self, packet: Any, number: int) -> bool:
        """Whether a packet that was read is that one, by its time and its size."""
        return bool(self.order(packet.pts) == number and packet.size == self._sizes[number])

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


def _place(ordered: np.ndarray, value: int | None, sorter: np.ndarray | None = None) -> int | None:
    """Where a value lies in a sorted array, if it does."""
    if value is None:
        return None
    at = int(np.searchsorted(ordered, value, sorter=sorter))
    if at == len(ordered):
        return None
    return at if ordered[at if sorter is None else sorter[at]] == value else None


def _did_you_mean(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""


def pyav() -> Any:
    """PyAV, which only videos need."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'video files, addresses and cameras need PyAV, which is not installed: pip install "sam2core[video]" '
            "(folders of images, arrays and iterators go without)",
            name=error.name,
        ) from None
    return av


def coded_size(path: str | os.PathLike[str], where: str) -> tuple[int, int]:
    """(H, W) of a video file's frames as they are coded, before any turn; none is decoded. Raises ValueError."""
    container, stream = open_video(os.fspath(path), where)
    with container:
        return stream.codec_context.height, stream.codec_context.width


def open_video(path: str | BinaryIO, where: str, **options: Any) -> tuple[Any, Any]:
    """A container and its best video stream; `where` is what messages call it. Raises ValueError when there is none."""
    av = pyav()
    missing = missing_bytes(Path(path)) if isinstance(path, str) and os.path.isfile(path) else 0
    cut = f"; it is cut off, {missing} bytes are missing at its end" if missing else ""
    try:
        container = av.open(path, metadata_errors="replace", **options)
    except av.FFmpegError as error:
        raise ValueError(f"{where} is no video that can be opened: {error.strerror}{cut}") from error
    stream = max(container.streams.video, key=_worth, default=None)
    if stream is None:
        found = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
        container.close()
        raise ValueError(f"{where} has no video in it, only {found}{cut}")
    if stream.codec_context is None:
        container.close()
        raise ValueError(f"{where} cannot be decoded: what its video is coded with is unknown or damaged{cut}")
    return container, stream


def _worth(stream: Any) -> tuple[bool, bool, bool, int]:
    """How good a video stream is, as FFmpeg's tool ranks them: no cover, no still, the file's choice, large."""
    context, said = stream.codec_context, stream.disposition
    area = 0 if context is None else context.width * context.height
    return not said & type(said).attached_pic, stream.frames != 1, bool(said & type(said).default), area


def _told(container: Any, stream: Any, where: str) -> str | None:
    """What is to be said of a file's other video streams."""
    others = [one for one in container.streams.video if one.index != stream.index]
    if not others:
        return None
    sizes = ", ".join(
        f"{one.index} ({one.codec_context.width}x{one.codec_context.height})" if one.codec_context else f"{one.index}"
        for one in others
    )
    chosen = f"{stream.index} ({stream.codec_context.width}x{stream.codec_context.height})"
    return f"{where} has {len(others) + 1} video streams: {chosen} is read, not {sizes}"


def _end(container: Any, stream: Any) -> int | None:
    """When the last frame ends by what the file says, in the stream's unit of time."""
    if stream.duration is not None:
        return int(stream.duration + (stream.start_time or 0))
    if container.duration is None:
        return None
    return int((container.duration + (container.start_time or 0)) / 1_000_000 / stream.time_base)


def rate(stream: Any) -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _decoded(packets: Iterator[Any], stream: Any, time: int | None = None) -> Iterator[Any]:
    """The images of packets, in the order they are shown, from the packet with that time on.

    Raises Damage at the first packet that cannot be decoded, after the images shown before it and decoded already.
    """
    errors = pyav().FFmpegError
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


def received(container: Any, stream: Any) -> Iterator[Any]:
    with container:
        yield from _decoded(container.demux(stream), stream)
