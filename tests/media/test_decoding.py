"""Video files: every frame is exact however it is reached; what is damaged or missing is named."""

from __future__ import annotations

import gc
import random
import struct
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam2core.media import decoding
from sam2core.media.frames import FrameError, open_source
from tests.media.numbered import H264, HEIGHT, VIDEOS, VP9, WIDTH, av, needs_av, number_in, write_video

ORDER = [0, 1, 29, 30, 31, 59, 60, 61, 89, 45, 12]


@needs_av
@pytest.mark.parametrize("kind", VIDEOS)
def test_videos_are_exact(kind: str, video: Callable[[str], Path]) -> None:
    path = video(kind)
    with open_source(path) as source:
        assert source.size == (HEIGHT, WIDTH)
        if kind != "h264, raw":  # which says nothing of times
            assert source.fps == pytest.approx(30, rel=0.15 if kind == "gif" else 0.01)
        in_order = list(source)
        assert [number_in(frame) for frame in in_order] == list(range(90))
        assert source.length in ((None, 90) if kind in ("h264, raw", "mpeg2") else (90,))  # packets without times
    shuffled = [*ORDER, *random.Random(0).sample(range(90), 20)]
    with open_source(str(path)) as source:
        for index in shuffled:
            assert np.array_equal(source[index], in_order[index]), index
        assert source.has(89)
        assert not source.has(90)
    with open_source(path, start=7, stop=88, stride=9) as source:
        assert [number_in(frame) for frame in source] == list(range(7, 88, 9))
        assert source.name(2) == "00025"


@needs_av
@pytest.mark.parametrize("kind", ["h264", "hevc", "vp9"])
def test_backwards_and_twice(kind: str, video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sought = []
    real = decoding.Video._seek
    monkeypatch.setattr(decoding.Video, "_seek", lambda self, *rest: (sought.append(rest), real(self, *rest))[1])
    with open_source(video(kind)) as source:
        assert [number_in(frame) for frame in source] == list(range(90))
        assert not sought
        assert [number_in(source[index]) for index in reversed(range(90))] == list(reversed(range(90)))
        assert len(sought) < 12
        assert [number_in(frame) for frame in source] == list(range(90))


@needs_av
def test_a_video_is_opened_without_being_read(video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = decoding.Packets
    monkeypatch.setattr(decoding, "Packets", lambda *given: (made.append(given), real(*given))[1])
    with open_source(video("h264")) as source:
        assert source.size == (HEIGHT, WIDTH)
        assert number_in(source[0]) == 0
        assert not made
        assert source.length == 90
        source[50]
        assert len(made) == 1


@needs_av
def test_decoded_pictures_are_released_at_once(video: Callable[[str], Path]) -> None:
    gc.collect()
    gc.disable()  # what only the collector would find stays
    try:
        with open_source(video("h264")) as source:
            assert len(list(source)) == 90
            alive = [one for one in gc.get_objects() if type(one) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(alive) <= 12


@needs_av
def test_variable_frame_rate(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).integers(1, 9, 60)
    times = (np.cumsum(steps) - steps[0]).tolist()
    for name, codec, options in (("a.mp4", "libx264", H264), ("a.mkv", "libx264", H264), ("a.webm", "libvpx-vp9", VP9)):
        path = write_video(tmp_path / name, codec, count=60, times=times, options=options)
        source = open_source(path)
        assert source.length == 60
        for index in [59, 0, 31, 30, 7, 8, 9, 58]:
            assert number_in(source[index]) == index


@needs_av
def test_several_threads_may_ask_a_video(video: Callable[[str], Path]) -> None:
    wrong = []
    with open_source(video("h264")) as source:

        def ask(seed: int) -> None:
            for index in random.Random(seed).choices(range(90), k=25):
                if number_in(source[index]) != index or source.length != 90:
                    wrong.append(index)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@needs_av
@pytest.mark.parametrize(
    "matrix,seen",
    [
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # a quarter turn clockwise, as telephones write it
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
        ((1, 0, 0, 1), lambda picture: picture),
    ],
)
def test_turned_and_mirrored_videos(
    matrix: tuple[int, ...], seen: Callable[..., Any], video: Callable[[str], Path], tmp_path: Path
) -> None:
    data = bytearray(video("h264").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    with open_source(video("h264")) as upright, open_source(tmp_path / "turned.mp4") as turned:
        assert turned.size == ((WIDTH, HEIGHT) if b else (HEIGHT, WIDTH))
        for index in (0, 40, 17):
            assert np.array_equal(turned[index], seen(upright[index]))


@needs_av
@pytest.mark.parametrize("first", [5, 30, 41])
def test_what_an_edit_list_cuts_is_no_frame(first: int, video: Callable[[str], Path], tmp_path: Path) -> None:
    data = bytearray(video("h264").read_bytes())
    at = data.index(b"elst") + 8
    assert struct.unpack_from(">I", data, at) == (1,)
    duration, begin = struct.unpack_from(">II", data, at + 4)
    step = 512  # of the track's unit of time, 1 / 15360 s; the list's is 1 / 1000 s
    struct.pack_into(">II", data, at + 4, round(duration * (90 - first) / 90), begin + first * step)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    source = open_source(tmp_path / "trimmed.mp4")
    assert source.length == 90 - first
    for index in [source.length - 1, 0, 40, 3, *range(12)]:
        assert number_in(source[index]) == first + index


# damaged files


def walk(path: Path) -> tuple[list[int], ValueError | None]:
    seen = []
    with open_source(path) as source:
        try:
            for frame in source:
                seen.append(number_in(frame))
        except ValueError as error:
            return seen, error
    return seen, None


@needs_av
@pytest.mark.parametrize(
    "name,codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")]
)
@pytest.mark.parametrize("share", [0.6, 0.7, 0.8])
def test_a_truncated_file_gives_what_it_has(name: str, codec: str, share: float, tmp_path: Path) -> None:
    options = {"libx264": H264, "libvpx-vp9": VP9, "mpeg4": {"qscale": "3"}}[codec]
    container = {"movflags": "+faststart"} if name == "a.mp4" else None
    path = write_video(tmp_path / name, codec, options=options, container=container)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    seen, error = walk(path)
    assert seen == list(range(len(seen)))
    assert 0 < len(seen) < 90
    assert isinstance(error, FrameError)
    assert error.frame == len(seen)
    assert f"frame {len(seen)} of " in str(error) and name in str(error)
    assert "cut off" in str(error) or "damaged" in str(error)
    with open_source(path) as source, pytest.raises(FrameError):
        source[source.length - 1]


@needs_av
@pytest.mark.parametrize("kind", ["h264", "h264 in mkv"])
@pytest.mark.parametrize("at", [31, 40, 59])
def test_a_damaged_packet_is_named(kind: str, at: int, video: Callable[[str], Path], tmp_path: Path) -> None:
    path = video(kind)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    pos, size, content = packets[at]
    data = bytearray(path.read_bytes())
    pos = data.index(content, pos)
    data[pos : pos + size] = b"\xff" * size
    broken = tmp_path / path.name
    broken.write_bytes(data)
    seen, error = walk(broken)
    assert seen == list(range(len(seen)))
    assert at - 4 <= len(seen) <= at + 4
    assert isinstance(error, FrameError)
    assert error.frame == len(seen)
    assert f"frame {len(seen)} of {str(broken)!r} cannot be read" in str(error)
    source = open_source(broken)
    for index in (5, 75, 89):
        assert number_in(source[index]) == index


@needs_av
def test_files_that_are_no_videos(video: Callable[[str], Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.mp4"
    for content in (b"", b"Dear diary, today I wrote a text.\n" * 99, video("h264").read_bytes()[:400], bytes(5000)):
        wrong.write_bytes(content)
        with pytest.raises(ValueError, match=r"wrong\.mp4' is no video that can be opened"):
            open_source(wrong)
    whole = video("h264").read_bytes()
    wrong.write_bytes(whole[: len(whole) * 2 // 3])  # its index was at the end
    with pytest.raises(ValueError, match="it is cut off, [0-9]+ bytes are missing at its end"):
        open_source(wrong)
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    with pytest.raises(ValueError, match="has no video in it, only audio"):
        open_source(tmp_path / "sound.mp4")


@needs_av
def test_a_name_with_a_colon_is_no_protocol(
    video: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "co:lon.mp4").write_bytes(video("h264").read_bytes())
    monkeypatch.chdir(tmp_path)
    with open_source("co:lon.mp4") as source:
        assert source.length == 90 and number_in(source[31]) == 31


@needs_av
def test_a_size_that_changes_within_a_video(tmp_path: Path) -> None:
    with (tmp_path / "a.h264").open("wb") as out:
        for width in (96, 128):
            coder = av.CodecContext.create("libx264", "w")
            coder.width, coder.height, coder.pix_fmt, coder.time_base = width, 64, "yuv420p", Fraction(1, 30)
            coder.options = {"bf": "0", "x264-params": "log-level=none"}
            for number in range(5):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, width, 3), np.uint8), format="rgb24")
                picture.pts = number
                out.write(b"".join(bytes(packet) for packet in coder.encode(picture)))
            out.write(b"".join(bytes(packet) for packet in coder.encode(None)))
    source = open_source(tmp_path / "a.h264")
    seen = []
    with pytest.raises(FrameError, match="frame 5 of .* is 128x64 pixels, but the ones before are 96x64"):
        for frame in source:
            seen.append(frame)
    assert len(seen) == 5
