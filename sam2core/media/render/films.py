"""Videos: H.264 in mp4, and what other video files need."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sam2core import storage
from sam2core.media.render.writer import Writer


class FileWriter(Writer):
    """A video file that PyAV writes, and that has its name only once it is whole; without any frame there is none."""

    path: Path
    count: int
    """Frames written so far."""
    _unfinished: Path
    _container: Any
    _stream: Any

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.count:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if self.count:
                storage.finish(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)


class VideoWriter(FileWriter):
    """An mp4 that plays everywhere: H.264, yuv420p, its index in front.

    Sides of odd length get one more row or column, which repeats the last. The file has its name only once it is
    whole; without any frame there is none. Needs PyAV, the extra ``sam2core[video]``.

    Args:
        path: the file; one that is there is replaced in the end.
        size: (H, W) of every frame.
        fps: frames per second; times given to `write` take precedence.
        quality: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        ValueError: a rate that is not positive.
    """

    def __init__(
        self, path: str | os.PathLike[str], size: tuple[int, int], *, fps: float = 25.0, quality: float = 20
    ) -> None:
        try:
            import av
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError(
                'writing mp4 needs PyAV, which is not installed: pip install "sam2core[video]" '
                "(mask PNGs, COCO RLE and cut-outs go without)",
                name=missing.name,
            ) from None
        if not 0 < fps < 100_000:
            raise ValueError(f"a video has more than 0 frames per second, not {fps}")
        self.path = Path(path)
        self.size = size
        self.count = 0
        self._av = av
        self._unfinished = self.path.with_name(self.path.name + ".part")
        self._rate = Fraction(fps).limit_denominator(10_000)
        self._clock = Fraction(1, 90_000)
        self._latest = -1
        self._origin = Fraction(0)
        place = str(self._unfinished.absolute())  # FFmpeg takes the beginning of '12:30/overlay.mp4' for a protocol
        self._container = av.open(place, "w", format="mp4", options={"movflags": "faststart"})
        stream: Any = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = self._clock
        # x264's macroblock tree is not the same twice for small images: it reads memory that nobody wrote
        stream.options = {"crf": str(quality), "preset": "veryfast", "x264-params": "mbtree=0"}
        self._stream = stream

    def write(self, frame: np.ndarray, *, time: float | None = None) -> None:
        """Add a frame (H, W, 3) uint8, shown from `time` seconds on (default: by the rate), the first from the start.

        Raises:
            ValueError: another size or type.
        """
        height, width = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"this video has frames ({height}, {width}, 3) of uint8, not {frame.shape} of {frame.dtype}"
            )
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        seconds = self.count / self._rate if time is None else Fraction(time)
        self._origin = seconds if self.count == 0 else self._origin
        self._latest = max(self._latest + 1, round((seconds - self._origin) / self._clock))
        picture.pts, picture.time_base = self._latest, self._clock
        self._container.mux(self._stream.encode(picture))
        self.count += 1
