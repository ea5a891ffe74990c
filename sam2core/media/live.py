"""Frames that come at their own pace: network streams and cameras, through PyAV."""

from __future__ import annotations

import glob
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from sam2core.media.decoding import open_video, rate, received
from sam2core.media.images import Damage
from sam2core.media.readers import Reader, Stream

ADDRESSES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}", "{}"),
    "darwin": ("avfoundation", "{}", "{}"),
    "win32": ("dshow", "video={}", "video={}"),
}
"""How FFmpeg reaches cameras: its name for the system's interface, a camera by number, and one by name."""
TIMEOUT = 10.0
"""Seconds without data after which a camera or a stream has ended."""


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
    container, stream = open_video(address, repr(address), options=options, timeout=TIMEOUT)
    if container.duration is None:
        return Live(received(container, stream), repr(address), rate(stream))
    reader = Stream(received(container, stream), repr(address))
    reader.fps = rate(stream)
    return reader


def camera(name: str) -> Reader:
    """``"camera:0"``: a camera by its number, or by what the system calls it."""
    device = name.removeprefix("camera:")
    if sys.platform not in CAMERAS:
        raise ValueError(f"cameras are known on {', '.join(CAMERAS)}, not on {sys.platform}")
    system, numbered, named = CAMERAS[sys.platform]
    path = (numbered if device.isdigit() else named).format(device)
    if sys.platform == "linux" and not os.path.exists(path):
        here = ", ".join(sorted(glob.glob(numbered.format("*")))) or "none"
        raise ValueError(f"there is no camera {name!r}: {path} does not exist; the cameras here are: {here}")
    container, stream = open_video(path, f"{name!r} ({path}, through {system})", format=system, timeout=TIMEOUT)
    return Live(received(container, stream), repr(name), rate(stream))
