"""Frame sources: every kind gives the same frames, exactly; damage is named; nothing is held, no thread is left."""

from __future__ import annotations

import functools
import gc
import http.server
import random
import re
import struct
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam2core.predictors import frames
from sam2core.predictors.frames import FrameError, open_source
from sam2core.predictors.transforms import read_image

try:
    import av
except ModuleNotFoundError:
    av = None

needs_av = pytest.mark.skipif(av is None, reason="PyAV is not installed")
HEIGHT, WIDTH, BITS = 48, 96, 8
ORDER = [0, 1, 29, 30, 31, 59, 60, 61, 89, 45, 12]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    if workers():
        gc.collect()
    until = time.monotonic() + 5
    while workers() and time.monotonic() < until:
        time.sleep(0.01)
    assert not workers()


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("frames")]


def numbered(number: int) -> np.ndarray:
    """A picture (HEIGHT, WIDTH, 3) that says its number in black and white blocks along its top."""
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


# all kinds


class Dataset:
    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pictures[index]


def files(pictures: np.ndarray, folder: Path) -> list[Path]:
    paths = [folder / f"shot{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures):
        Image.fromarray(picture).save(path)
    return paths


def memmap(pictures: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "pictures.npy", pictures)
    return np.load(folder / "pictures.npy", mmap_mode="r")


KINDS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "folder": lambda pictures, at: files(pictures, at) and at,
    "folder name": lambda pictures, at: files(pictures, at) and str(at),
    "pattern": lambda pictures, at: files(pictures, at) and f"{at}/shot*.png",
    "paths": files,
    "path names": lambda pictures, at: tuple(str(path) for path in files(pictures, at)),
    "THWC": lambda pictures, at: pictures,
    "TCHW": lambda pictures, at: pictures.transpose(0, 3, 1, 2),
    "THWC tensor": lambda pictures, at: torch.from_numpy(pictures),
    "TCHW tensor": lambda pictures, at: torch.from_numpy(pictures).permute(0, 3, 1, 2),
    "float THWC": lambda pictures, at: pictures.astype(np.float32) / np.float32(255),
    "float tensor": lambda pictures, at: torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255,
    "with alpha": lambda pictures, at: np.concatenate([pictures, pictures[..., :1]], 3),
    "memmap": memmap,
    "arrays": lambda pictures, at: list(pictures),
    "pictures": lambda pictures, at: [Image.fromarray(picture) for picture in pictures],
    "tensors": lambda pictures, at: [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures],
    "mixed": lambda pictures, at: [Image.fromarray(p) if n % 2 else p for n, p in enumerate(pictures)],
    "dataset": lambda pictures, at: Dataset(pictures),
    "generator": lambda pictures, at: (picture for picture in pictures),
    "iterator": lambda pictures, at: map(Image.fromarray, pictures),
    "function": lambda pictures, at: lambda index: pictures[index],
    "function, None": lambda pictures, at: lambda index: pictures[index] if index < len(pictures) else None,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start,stop,stride", [(0, None, 1), (2, 11, 3), (5, 99, 4)])
def test_every_kind_gives_the_same_frames(kind: str, start: int, stop: int | None, stride: int, tmp_path: Path) -> None:
    pictures = clip(13)
    wanted = pictures[start:stop:stride]
    with open_source(KINDS[kind](pictures, tmp_path), start=start, stop=stop, stride=stride) as source:
        assert source.size == (10, 14)
        assert source.fps is None
        assert not source.live
        unknown = kind.split(",")[0] in ("generator", "iterator", "function")
        assert source.length == (None if unknown else len(wanted))
        seen = list(source)
        assert len(seen) == len(wanted)
        for frame, picture in zip(seen, wanted):
            assert torch.equal(read_image(frame), read_image(picture))
            if isinstance(frame, np.ndarray):
                assert type(frame) is np.ndarray and frame.flags.writeable and frame.shape[2] == 3
        assert source.has(len(wanted) - 1)
        assert not source.has(len(wanted))
        assert not source.has(-1)
        with pytest.raises(IndexError):
            source[len(wanted)]
        stem = "shot{}" if kind in ("folder", "folder name", "pattern", "paths", "path names") else "{:05d}"
        assert [source.name(i) for i in range(2)] == [stem.format(start), stem.format(start + stride)]


@pytest.mark.parametrize("kind", ["folder", "paths", "TCHW", "memmap", "arrays", "dataset", "function"])
def test_random_access(kind: str, tmp_path: Path) -> None:
    pictures = clip(12)
    source = open_source(KINDS[kind](pictures, tmp_path))
    for index in [7, 7, 2, 3, 4, 5, 11, 10, 9, 8, 0, 1]:
        assert torch.equal(read_image(source[index]), read_image(pictures[index]))


def test_an_open_source_passes_through() -> None:
    source = open_source(clip(3))
    assert open_source(source) is source
    with pytest.raises(ValueError, match="open already"):
        open_source(source, start=1)


def test_grey_frames_get_three_channels(tmp_path: Path) -> None:
    grey = clip(3)[..., :1]
    Image.fromarray(grey[1, :, :, 0]).save(tmp_path / "1.png")
    for given in (grey, torch.from_numpy(grey), [one[:, :, 0] for one in grey], [tmp_path / "1.png"] * 3):
        assert torch.equal(read_image(open_source(given)[1]), read_image(grey[1]))


@pytest.mark.parametrize(
    "wrong,says",
    [
        ({"start": -1}, "start is a number of frames, 0 or more, not -1"),
        ({"stride": 0}, "stride is a number of frames, 1 or more, not 0"),
        ({"start": 1.5}, "not 1.5"),
        ({"start": 3, "stop": 3}, "no frame lies between start 3 and stop 3"),
        ({"start": 4}, "has 4 frames, none from 4 on"),
    ],
)
def test_wrong_ranges(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        open_source(clip(4), **wrong)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize(
    "shape,says",
    [
        ((5, 3, 20, 3), "either axis could be the channels"),
        ((5, 4, 20, 1), "either axis could be the channels"),
        ((5, 20, 30, 2), "no axis is 1, 3 or 4 channels"),
        ((20, 30, 3), "a single picture goes into a list"),
        ((0, 20, 30, 3), "is empty"),
    ],
)
def test_stacks_of_unclear_shape(make: Callable[..., Any], shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_source(make(shape))


def test_what_is_no_source(tmp_path: Path) -> None:
    for wrong, says in [
        (Image.new("RGB", (4, 4)), "one picture goes into a list"),
        (17, "not from builtins.int"),
        ([], "is empty"),
        (iter(()), "is empty"),
        (lambda index: None, "is empty"),
        (np.zeros((3, 8, 8, 3), np.int64), "not int64"),
        ([np.zeros((4, 4, 7))], "frame 0 of the list of frames cannot be read"),
        (["a"], "frame 0 of 'a' cannot be read: there is no image file"),
        ({"a": 1}, "frame 0 of the dict of frames cannot be read: asking for it raises KeyError"),
        (tmp_path, "has no pictures"),
        (f"{tmp_path}/*.png", "matches no pictures"),
        (tmp_path / "nothing.mp4", "there is no file or folder"),
    ]:
        with pytest.raises(ValueError, match=re.escape(says)):
            open_source(wrong)
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(ValueError, match=r"did you mean .*holiday\.mp4"):
        open_source(tmp_path / "holidays.mp4")


# folders


def test_folders_are_in_natural_order_and_hold_other_files_too(tmp_path: Path) -> None:
    names = ["2.jpg", "10.PNG", "1.webp", "a2b10.tif", "a2b9.tiff", "b.bmp", "a10.jpeg"]
    for value, name in enumerate(names):
        Image.new("RGB", (8, 6), (value, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._2.jpg").write_text("what another system leaves behind")
    (tmp_path / "more.png").mkdir()
    source = open_source(tmp_path)
    assert [source.name(i) for i in range(7)] == ["1", "2", "10", "a2b9", "a2b10", "a10", "b"]
    assert source.length == 7
    assert int(source[2][0, 0, 0]) == 1


def test_a_turned_photograph_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(numbered(3)).save(tmp_path / "a.png", exif=exif)
    source = open_source(tmp_path / "a.png")
    assert source.size == (WIDTH, HEIGHT)
    assert source.length == 1


def test_a_broken_picture_is_named_after_those_before(tmp_path: Path) -> None:
    paths = files(clip(6), tmp_path)
    paths[4].write_bytes(paths[4].read_bytes()[:200])
    seen = []
    with open_source(tmp_path) as source, pytest.raises(FrameError, match=r"frame 4 of .*shot4\.png' cannot") as caught:
        for frame in source:
            seen.append(frame)
    assert len(seen) == 4
    assert caught.value.frame == 4
    assert isinstance(caught.value, ValueError)
    with (
        open_source(tmp_path, start=2, stride=2) as source,
        pytest.raises(FrameError, match=r"frame 1 \(number 4\) of .*shot4\.png' cannot be read"),
    ):
        source[1]


@pytest.mark.parametrize("kind", ["files", "arrays", "generator"])
def test_a_frame_of_another_size_is_named(kind: str, tmp_path: Path) -> None:
    pictures = list(clip(5))
    pictures[3] = np.zeros((12, 14, 3), np.uint8)
    given: Any = pictures
    if kind == "files":
        given = files(pictures, tmp_path)  # type: ignore[arg-type]
    elif kind == "generator":
        given = iter(pictures)
    source = open_source(given)
    assert all(source.has(i) for i in range(3))
    with pytest.raises(FrameError, match=r"frame 3 of .* is 14x12 pixels, but the ones before are 14x10") as caught:
        list(source) if kind != "generator" else source[3]
    assert caught.value.frame == 3


# iterators


def test_an_iterator_remembers_its_last_frames_only() -> None:
    source = open_source(iter(clip(30)))
    assert source.has(20)
    for index in range(21, 25):
        source[index]
    assert torch.equal(read_image(source[20]), read_image(clip(30)[20]))
    with pytest.raises(ValueError, match="frame 3 of .* has passed: only its last 8 frames are remembered"):
        source[3]
    assert source.has(3)
    assert source.has(29)
    assert not source.has(30)
    assert not source.has(31)


def test_an_iterator_is_read_as_frames_are_wanted_in_the_thread_that_asks() -> None:
    asked = []

    def generate() -> Iterator[np.ndarray]:
        for number in range(10):
            asked.append((number, threading.current_thread()))
            yield numbered(number)

    source = open_source(generate())
    for index in range(4):
        number_in(source[index])
    assert asked == [(number, threading.current_thread()) for number in range(4)]


def test_walking_a_long_generator_keeps_few_frames_alive() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def generate() -> Iterator[np.ndarray]:
        nonlocal most
        for number in range(500):
            most = max(most, sum(ref() is not None for ref in alive))
            picture = np.full((64, 64, 3), number % 251, np.uint8)
            alive.append(weakref.ref(picture))
            yield picture
            del picture

    source = open_source(generate())
    tracemalloc.start()
    count, index = 0, 0
    while source.has(index):
        count += int(source[index][0, 0, 0] == index % 251)
        index += 1
        if index == 50:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 500
    assert most <= 2
    assert peak - before < 6 * 64 * 64 * 3


def test_a_memmap_is_not_read_ahead_of_what_is_wanted(tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((400, 100, 100, 3), np.uint8))
    given = np.load(tmp_path / "many.npy", mmap_mode="r")
    tracemalloc.start()
    source = open_source(given)
    source[399]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 1024


def test_errors_of_an_iterator_are_its_own() -> None:
    def generate() -> Iterator[np.ndarray]:
        yield from clip(2)
        raise OSError("the disk is gone")

    source = open_source(generate())
    source[1]
    with pytest.raises(OSError, match="the disk is gone"):
        source[2]


# threads


def test_pictures_are_decoded_ahead_when_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = frames.Items.read

    def noted(self: frames.Items, index: int) -> Any:
        read.append(index)
        return real(self, index)

    monkeypatch.setattr(frames.Items, "read", noted)
    source = open_source(files(clip(20), tmp_path))
    source[9]
    assert read == [0, 9]
    source[10]
    until = time.monotonic() + 5
    while len(read) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert read == [0, 9, 10, 11, 12, 13]
    assert torch.equal(read_image(source[11]), read_image(clip(20)[11]))
    source.close()
    assert not workers()
    assert read in ([0, 9, 10, 11, 12, 13], [0, 9, 10, 11, 12, 13, 14])


def test_threads_end_when_closed_and_when_dropped(tmp_path: Path) -> None:
    paths = files(clip(20), tmp_path)
    with open_source(paths) as source:
        source[1]
        assert len(workers()) == 1
    assert not workers()
    source.close()
    with pytest.raises(ValueError, match="was closed"):
        source[0]
    source = open_source(paths)
    for index in range(5):
        source[index]
    assert len(workers()) == 1
    del source  # the fixture sees that nothing is left


def test_several_threads_may_ask(tmp_path: Path) -> None:
    pictures = clip(20)
    source = open_source(files(pictures, tmp_path))
    wrong = []

    def ask(seed: int) -> None:
        for index in random.Random(seed).choices(range(20), k=40):
            if not np.array_equal(source[index], pictures[index]):
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# video files


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
    "jpeg": ("a.mov", "mjpeg", {}),
    "gif": ("a.gif", "gif", {}),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def write(kind: str) -> Path:
        name, codec, options = VIDEOS[kind]
        container = {"movflags": "frag_keyframe+empty_moov"} if kind == "h264 in pieces" else None
        folder = tmp_path_factory.mktemp("video")
        return write_video(folder / name, codec, options=options, container=container)

    return write


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
    real = frames.Video._seek
    monkeypatch.setattr(frames.Video, "_seek", lambda self, *rest: (sought.append(rest), real(self, *rest))[1])
    with open_source(video(kind)) as source:
        assert [number_in(frame) for frame in source] == list(range(90))
        assert not sought
        assert [number_in(source[index]) for index in reversed(range(90))] == list(reversed(range(90)))
        assert len(sought) < 12
        assert [number_in(frame) for frame in source] == list(range(90))


@needs_av
def test_a_video_is_opened_without_being_read(video: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = frames.Packets
    monkeypatch.setattr(frames, "Packets", lambda *given: (made.append(given), real(*given))[1])
    with open_source(video("h264")) as source:
        assert source.size == (HEIGHT, WIDTH)
        assert number_in(source[0]) == 0
        assert not made
        assert source.length == 90
        source[50]
        assert len(made) == 1


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


def test_without_pyav_folders_work_and_videos_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    files(clip(3), tmp_path)
    assert open_source(tmp_path).length == 3
    (tmp_path / "a.mp4").touch()
    for given in (tmp_path / "a.mp4", "camera:0", "rtsp://localhost/a"):
        with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "sam2core[video]"')):
            open_source(given)


# live sources


def live(pictures: Iterator[Any]) -> frames.FrameSource:
    return frames.FrameSource(frames.Live(pictures, "the test camera"))


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

    with live(shoot()) as source:
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
        raise frames.Damage("unplugged")

    assert [number_in(frame) for frame in live(shoot())] == [7]


def test_a_camera_that_shows_nothing() -> None:
    with pytest.raises(ValueError, match="the test camera is empty"):
        live(iter(()))


def test_closing_a_live_source_ends_its_thread() -> None:
    closed = threading.Event()

    def shoot() -> Iterator[np.ndarray]:
        try:
            while True:
                yield numbered(1)
                time.sleep(0.005)
        finally:
            closed.set()

    source = live(shoot())
    assert len(workers()) == 1
    source.close()
    assert closed.is_set()
    closed.clear()
    source = live(shoot())
    source[3]
    del source
    gc.collect()
    assert closed.wait(5)


@needs_av
def test_there_is_no_such_camera() -> None:
    with pytest.raises(ValueError, match="'camera:973' is no video that can be opened|cameras are known on"):
        open_source("camera:973")


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
