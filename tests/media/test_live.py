"""Cameras and streams: the newest frame counts, an end is an end, nothing is left running."""

from __future__ import annotations

import contextlib
import functools
import gc
import http.server
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam2core.media import frames, live
from sam2core.media.frames import open_source
from sam2core.media.images import Damage
from tests.media.numbered import needs_av, number_in, numbered, workers


def feed(pictures: Iterator[Any]) -> frames.FrameSource:
    return frames.FrameSource(live.Live(pictures, "the test camera"))


def test_a_live_source_gives_the_newest_frame_and_drops_the_others() -> None:
    shown = [threading.Event() for _ in range(4)]
    taken = threading.Event()

    def shoot() -> Iterator[np.ndarray]:
        yield numbered(0)
        taken.wait(5)
        for number in range(1, 20):
            yield numbered(number)
        shown[0].set()
        shown[1].wait(5)
        yield numbered(20)

    with feed(shoot()) as source:
        assert source.live
        assert source.length is None
        taken.set()
        shown[0].wait(5)
        assert number_in(source[1]) == 19
        assert number_in(source[0]) == 0
        shown[1].set()
        assert source.has(2)
        assert number_in(source[2]) == 20
        assert not source.has(3)


def test_a_camera_that_stops_ends_the_frames_cleanly() -> None:
    def shoot() -> Iterator[np.ndarray]:
        yield numbered(7)
        raise Damage("unplugged")

    assert [number_in(frame) for frame in feed(shoot())] == [7]


def test_a_camera_that_shows_nothing() -> None:
    with pytest.raises(ValueError, match="the test camera is empty"):
        feed(iter(()))


def test_closing_a_live_source_ends_its_thread() -> None:
    closed = threading.Event()

    def shoot() -> Iterator[np.ndarray]:
        try:
            while True:
                yield numbered(1)
                time.sleep(0.005)
        finally:
            closed.set()

    source = feed(shoot())
    assert len(workers()) == 1
    source.close()
    assert closed.is_set()
    closed.clear()
    source = feed(shoot())
    source[3]
    del source
    gc.collect()
    assert closed.wait(5)


@needs_av
def test_there_is_no_such_camera() -> None:
    with pytest.raises(ValueError, match="no camera 'camera:973'|is no video that can be opened|cameras are known on"):
        open_source("camera:973")


@needs_av
@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists its cameras as files")
def test_a_missing_camera_is_told_from_a_device_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(live.CAMERAS, "linux", ("v4l2", f"{tmp_path}/video{{}}", "{}"))
    with pytest.raises(ValueError, match=r"no camera 'camera:0': .*video0 does not exist; the cameras here are: none"):
        open_source("camera:0")
    (tmp_path / "video2").touch()
    with pytest.raises(ValueError, match=r"the cameras here are: .*video2$"):
        open_source("camera:0")
    with pytest.raises(ValueError, match=r"'camera:2' \(.*video2, through v4l2\) is no video that can be opened"):
        open_source("camera:2")


def serve_once(content: bytes, *, pause: float = 0.0, chunk: int = 4 * 188) -> str:
    """The address of a TCP server that sends this to the first who asks, with pauses, and hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with listening, listening.accept()[0] as caller, contextlib.suppress(ConnectionError):
            for at in range(0, len(content), chunk):
                caller.sendall(content[at : at + chunk])
                time.sleep(pause)

    threading.Thread(target=send, name="server", daemon=True).start()
    return f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@needs_av
def test_a_stream_over_tcp_ends_when_its_sender_hangs_up(video: Callable[[str], Path]) -> None:
    content = video("h264 in ts").read_bytes()
    with open_source(serve_once(content[: len(content) * 2 // 3], pause=0.002)) as source:
        assert source.live
        assert source.length is None
        seen = [number_in(frame) for frame in source]
    assert seen == sorted(set(seen))
    assert 20 < seen[-1] < 89


@needs_av
def test_a_stream_that_falls_silent_ends(video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TIMEOUT", 1.0)
    content = video("h264 in ts").read_bytes()
    quiet = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with listening, listening.accept()[0] as caller:
            caller.sendall(content[: len(content) // 2])
            quiet.wait(60)

    threading.Thread(target=send, name="server", daemon=True).start()
    try:
        with open_source(f"tcp://127.0.0.1:{listening.getsockname()[1]}") as source:
            seen = [number_in(frame) for frame in source]
    finally:
        quiet.set()
    assert 1 <= len(seen)
    assert seen == sorted(set(seen))


@needs_av
def test_nobody_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f"tcp://127.0.0.1:{port}' is no video that can be opened"):
        open_source(f"tcp://127.0.0.1:{port}")


@pytest.fixture()
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.endswith(".mjpeg"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        content = (Path(self.directory) / "frame.jpg").read_bytes()
        head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        for _ in range(40):
            self.wfile.write(head + content + b"\r\n")
            time.sleep(0.01)
        return None


@needs_av
def test_network_addresses(server: str, video: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(video("h264").read_bytes())
    with open_source(f"{server}/clip.mp4") as source:
        assert not source.live
        assert [number_in(frame) for frame in source] == list(range(90))
    Image.fromarray(numbered(5)).save(tmp_path / "frame.jpg", quality=95)
    with open_source(f"{server}/now.mjpeg") as source:
        assert source.live
        seen = [number_in(frame) for frame in source]
    assert 1 <= len(seen) <= 40
    assert set(seen) == {5}
    with pytest.raises(ValueError, match="is no video that can be opened"):
        open_source(f"{server}/nothing.mp4")
