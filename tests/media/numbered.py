"""Images that say their number, and videos of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

try:
    import av
except ModuleNotFoundError:
    av = None

needs_av = pytest.mark.skipif(av is None, reason="PyAV is not installed")
HEIGHT, WIDTH, BITS = 48, 96, 8


def numbered(number: int) -> np.ndarray:
    """An image (HEIGHT, WIDTH, 3) that says its number in black and white blocks along its top."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[...] = np.linspace(30, 200, WIDTH, dtype=np.uint8)[None, :, None]
    picture[:, :, 1] += np.arange(HEIGHT, dtype=np.uint8)[:, None]
    for bit in range(BITS):
        picture[:16, bit * 12 : (bit + 1) * 12] = 255 * (number >> bit & 1)
    return picture


def number_in(picture: Any) -> int:
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    return sum(int(picture[4:12, bit * 12 + 3 : bit * 12 + 9].mean() > 128) << bit for bit in range(BITS))


def clip(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 10, 14, 3), dtype=np.uint8)


def files(pictures: np.ndarray, folder: Path) -> list[Path]:
    paths = [folder / f"shot{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures):
        Image.fromarray(picture).save(path)
    return paths


def write_video(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 90,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    format: str | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    if codec not in av.codec.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this PyAV has no encoder {codec}")
    with av.open(str(path), "w", format=format, container_options=container or {}) as out:
        stream = out.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.codec_context.gop_size = 30
        for number in range(count):
            picture = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            picture.pts = number if times is None else times[number]
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


H264 = {"bf": "3", "preset": "veryfast", "x264-params": "b-adapt=0:scenecut=0:keyint=30:log-level=none"}
VP9 = {"deadline": "realtime", "cpu-used": "8"}
VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("a.mp4", "libx264", H264),
    "h264, open gop": ("a.mp4", "libx264", H264 | {"x264-params": H264["x264-params"] + ":open-gop=1"}),
    "h264, no key frames": (
        "a.mkv",
        "libx264",
        H264 | {"x264-params": "keyint=infinite:intra-refresh=1:log-level=none"},
    ),
    "h264 in mkv": ("a.mkv", "libx264", H264),
    "h264 in ts": ("a.ts", "libx264", H264),
    "h264 in pieces": ("a.mp4", "libx264", H264),
    "h264, raw": ("a.h264", "libx264", H264),
    "hevc": ("a.mp4", "libx265", {"preset": "ultrafast", "x265-params": "bframes=3:keyint=30:log-level=none"}),
    "vp9": ("a.webm", "libvpx-vp9", VP9),
    "vp8": ("a.webm", "libvpx", {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "mpeg4": ("a.avi", "mpeg4", {"bf": "2", "qscale": "3"}),
    "mpeg2": ("a.mpg", "mpeg2video", {"bf": "2", "qscale": "3"}),
    "mpeg2, other times after a seek": ("a.mpg", "mpeg2video", {"bf": "2", "qscale": "3", "threads": "1"}),
    "jpeg": ("a.mov", "mjpeg", {}),
    "gif": ("a.gif", "gif", {}),
}


def workers() -> list[threading.Thread]:
    """The threads of frame sources that still run."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("frames")]
