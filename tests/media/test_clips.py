"""Videos as people have them: several streams, B-frames packed in AVI, damaged files, image files of many images."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.media.decoding import open_video
from sam2core.media.frames import open_source
from sam2core.media.images import image_count, read_pixels, read_rgb
from tests.media.numbered import numbered

av = pytest.importorskip("av")


def write(path: Path, codec: str = "libx264", count: int = 20, **options: str) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        picture = av.VideoFrame.from_ndarray(numbered(0), format="rgb24")
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        for number in range(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        out.mux(stream.encode())
    return path


def test_the_best_of_several_streams_is_read_and_said(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as out:
        small, large = out.add_stream("mjpeg", rate=25), out.add_stream("libx264", rate=25)
        small.width, small.height, small.pix_fmt = 64, 64, "yuvj420p"
        large.width, large.height, large.pix_fmt = 128, 96, "yuv420p"
        out.mux(small.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        for number in range(12):
            grey = np.full((96, 128, 3), 20 * number, np.uint8)
            out.mux(large.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(small.encode())
        out.mux(large.encode())
    with open_source(path) as source:
        assert (source.size, source.length) == ((96, 128), 12)
        assert source.note is not None
        assert "two.mp4' has 2 video streams: 1 (128x96) is read, not 0 (64x64)" in source.note
        assert [round(frame.mean() / 20) for frame in source] == list(range(12))
    with open_source(write(tmp_path / "one.mp4")) as source:
        assert source.note is None


def test_times_are_the_clips_own(tmp_path: Path) -> None:
    path, times = tmp_path / "v.mp4", [0, 1, 2, 12, 13, 30, 31, 40]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for moment in times:
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * moment, np.uint8), format="rgb24")
            picture.pts = moment
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    with open_source(path) as source:
        assert [source.time(frame) for frame in range(8)] == pytest.approx([moment / 25 for moment in times])
        assert source.time(8) is None
    with open_source(path, start=2, stride=2) as source:
        assert [source.time(frame) for frame in range(3)] == pytest.approx([0, 11 / 25, 29 / 25])


def test_packed_pictures_are_counted_and_exact_in_any_order(tmp_path: Path) -> None:
    """Xvid's B-frames in AVI: a packet with two images, then one with none; the packets' times are not theirs."""
    plain, path = tmp_path / "plain.avi", tmp_path / "packed.avi"
    write(plain, "mpeg4", 24, bf="1", qscale="3", g="12", b_strategy="0")
    container, stream = open_video(str(plain), "it")
    with container, av.open(str(path), "w") as out:
        packets = [packet for packet in container.demux(stream) if packet.size]
        copy = out.add_stream_from_template(stream)
        held = [bytes(packet) for packet in packets]
        filler = bytes.fromhex("000001b60000")
        for at in range(1, len(held) - 1, 2):
            held[at], held[at + 1] = held[at] + held[at + 1], filler
        held[0] = b"\0\0\1\xb2DivX503b1393p" + held[0]  # what tells a decoder of it
        for at, data in enumerate(held):
            packet = av.Packet(data)
            packet.pts = packet.dts = at
            packet.time_base, packet.stream, packet.is_keyframe = packets[0].time_base, copy, packets[at].is_keyframe
            out.mux(packet)
    with av.open(str(path)) as container:
        wanted = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    assert len(wanted) > 20
    with open_source(path) as source:
        frames = list(source)
        assert source.length is None and len(frames) == len(wanted)
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(frames, wanted))
    order = [*range(len(wanted)), *reversed(range(len(wanted)))]
    random.Random(0).shuffle(order)
    with open_source(path) as source:
        for index in [*order[:12], *reversed(range(len(wanted)))]:
            assert np.array_equal(source[index], wanted[index])


def test_damaged_clips_are_read_or_refused_by_name(tmp_path: Path) -> None:
    """66 damaged files: flipped bytes in the headers and in the body, and cuts; never anything but a ValueError."""
    data, generator = write(tmp_path / "whole.mp4").read_bytes(), np.random.default_rng(0)
    index = data.find(b"moov")
    refused = 0
    for number in range(66):
        damaged = bytearray(data)
        if number % 3 == 0:
            del damaged[int(generator.integers(16, len(data))) :]
        else:
            first = index if number % 3 == 1 else 0
            for at in generator.integers(first, len(data), 12):
                damaged[at] ^= int(generator.integers(1, 256))
        path = tmp_path / f"damaged{number}.mp4"
        path.write_bytes(damaged)
        try:
            with open_source(path) as source:
                for at in range(min(source.length or 20, 40)):
                    source[at]
        except ValueError as error:
            assert path.name in str(error)
            refused += 1
        except IndexError:
            pass  # fewer frames than the damaged file promised
    assert refused > 20


def animation(path: Path, count: int = 7) -> list[np.ndarray]:
    """An animation of solid shapes that every kind of file keeps exactly."""
    pictures = []
    for number in range(count):
        pixels = np.full((24, 32, 3), (0, 0, 255 * (number % 2)), np.uint8)
        pixels[4:12, 3 * number : 3 * number + 8] = 255, 255, 0
        pictures.append(pixels)
    words = {"lossless": True} if path.suffix == ".webp" else {}
    timing = {} if path.suffix == ".tif" else {"duration": [100, 50] * (count // 2) + [100], "loop": 0}
    first, *rest = [Image.fromarray(pixels) for pixels in pictures]
    first.save(path, save_all=True, append_images=rest, **timing, **words)
    return pictures


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp", "a.gif"])
def test_all_pictures_of_a_file_are_frames(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    pictures = animation(path)
    assert image_count(path) == 7
    order = [6, 0, 3, 2, 5, 4, 1, 1, 6]
    with open_source(path) as source:
        assert source.length == 7 and source.size == (24, 32)
        assert all(np.array_equal(source[index], pictures[index]) for index in order)
        if name == "a.tif":
            assert source.fps is None and source.time(1) is None
        else:
            assert source.fps == pytest.approx(7 / 0.55)
            assert [source.time(index) for index in range(3)] == pytest.approx([0, 0.1, 0.15])
    with open_source(path, start=1, stride=2) as source:
        assert [np.array_equal(frame, pictures[1 + 2 * at]) for at, frame in enumerate(source)] == [True] * 3
        assert [source.name(at) for at in range(2)] == ["00001", "00003"]
    assert np.array_equal(read_rgb(path, 4), pictures[4])
    with pytest.raises(ValueError, match=rf"{name}.*no image 7 in it: it holds 7 images, 0 to 6"):
        read_pixels(path, 7)


def test_smaller_copies_of_a_picture_are_no_frames(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    large = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as out:
        out.write(large, photometric="rgb")
        out.write(large[::2, ::2], photometric="rgb", subfiletype=1)
    assert image_count(tmp_path / "pyramid.tif") == 1
    with open_source(tmp_path / "pyramid.tif") as source:
        assert source.length == 1 and source.name(0) == "pyramid"


def test_damaged_pages_name_the_file_and_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "cut.gif"
    animation(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"cut\.gif"), open_source(path) as source:
        list(source)
