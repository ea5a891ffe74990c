"""Frame sources: every kind gives the same frames, exactly; damage is named; nothing is held, no thread is left."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from sam2core.media import readers
from sam2core.media.frames import AHEAD, FrameError, open_source
from sam2core.media.images import read_image
from tests.media.numbered import HEIGHT, WIDTH, clip, files, number_in, numbered, workers

CHAIR = Path(registry.__file__).parent / "samples" / "chair.mp4"

# all kinds


class Dataset:
    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pictures[index]


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
        ((20, 30, 3), "a single image goes into a list"),
        ((0, 20, 30, 3), "is empty"),
    ],
)
def test_stacks_of_unclear_shape(make: Callable[..., Any], shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_source(make(shape))


def test_what_is_no_source(tmp_path: Path) -> None:
    for wrong, says in [
        (Image.new("RGB", (4, 4)), "one image goes into a list"),
        (17, "not from builtins.int"),
        ([], "is empty"),
        (iter(()), "is empty"),
        (lambda index: None, "is empty"),
        (np.zeros((3, 8, 8, 3), np.int64), "not int64"),
        ([np.zeros((4, 4, 7))], "frame 0 of the list of frames cannot be read"),
        (["a"], "frame 0 of 'a' cannot be read: there is no image file"),
        ({"a": 1}, "frame 0 of the dict of frames cannot be read: asking for it raises KeyError"),
        (tmp_path, "has no images"),
        (f"{tmp_path}/*.png", "matches no images"),
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
    (tmp_path / "notes.txt").write_text("not an image")
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
    with pytest.raises(ValueError, match="has passed" if kind == "generator" else "is 14x12 pixels"):
        source[3]


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
    real = readers.Items.read

    def noted(self: readers.Items, index: int) -> Any:
        read.append(index)
        return real(self, index)

    monkeypatch.setattr(readers.Items, "read", noted)
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
        assert 1 <= len(workers()) <= AHEAD  # files are read side by side
    assert not workers()
    source.close()
    with pytest.raises(ValueError, match="was closed"):
        source[0]
    source = open_source(paths)
    for index in range(5):
        source[index]
    assert 1 <= len(workers()) <= AHEAD
    del source  # the fixture sees that nothing is left


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
@pytest.mark.parametrize("kind", ["files", "video"])
def test_a_process_that_was_forked_off_reads_on_or_says_why_not(kind: str, tmp_path: Path) -> None:
    if kind == "video":
        pytest.importorskip("av", reason="videos are an extra")
    source = open_source(files(clip(12), tmp_path) if kind == "files" else CHAIR)
    for frame in range(3):
        source[frame]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = ",".join(str(np.array(source[frame]).sum()) for frame in (4, 5, 1))
        except ValueError as error:
            told = str(error)
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 60)[0], "it waits for a thread that is not there"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    told = os.read(reading, 10_000).decode()
    os.close(reading)
    if kind == "files":
        assert told == ",".join(str(np.array(source[frame]).sum()) for frame in (4, 5, 1))
    else:
        assert "chair.mp4' was opened before this process was forked off" in told
        assert source[4].shape, "the parent reads on"


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


def test_without_pyav_folders_work_and_videos_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    files(clip(3), tmp_path)
    assert open_source(tmp_path).length == 3
    (tmp_path / "a.mp4").touch()
    for given in (tmp_path / "a.mp4", "rtsp://localhost/a"):
        with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "sam2core[video]"')):
            open_source(given)
