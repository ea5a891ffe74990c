"""Colours of 16 bits, which Pillow would give as 8: read whole by everything that reads an image, or refused."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.media.files import ORIENTATION, TURNS, turned
from sam2core.media.frames import open_source
from sam2core.media.images import as_bytes, read_image, read_pixels, read_rgb, read_rgba
from sam2core.media.labels import read_labels, read_mask

KINDS = {2: 3, 4: 2, 6: 4}
"""PNG's number for a kind of colour, and its channels."""


def colors(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (6, 9, channels), dtype=np.uint16)


def save_png(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    height, width, channels = pixels.shape
    kind = next(number for number, count in KINDS.items() if count == channels)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", head), (b"eXIf", exif.tobytes()[6:]), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    ):  # fmt: skip
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(found)
    return path


@pytest.mark.parametrize("channels", KINDS.values())
@pytest.mark.parametrize("orientation", TURNS)
def test_a_png_keeps_its_16_bits(tmp_path, channels, orientation):
    pixels = colors(channels)
    path = save_png(tmp_path / "a.png", pixels, orientation)
    wanted = turned(pixels[..., :3] if channels > 2 else pixels[..., [0, 0, 0]], orientation)
    assert read_pixels(path).dtype == np.uint16 and np.array_equal(read_pixels(path)[..., :3], wanted)
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), wanted.astype(np.float32) / 65535)
    assert np.array_equal(read_rgb(path), as_bytes(wanted))
    alpha = turned(pixels[..., -1], orientation) if channels != 3 else np.full(wanted.shape[:2], 65535, np.uint16)
    assert np.array_equal(read_rgba(path)[..., 3], as_bytes(alpha)[..., 0])
    with open_source([path]) as frames:
        assert np.array_equal(frames[0], wanted)


def test_a_damaged_one_is_named(tmp_path):
    path = save_png(tmp_path / "a.png", colors())
    for cut in (40, 60, len(path.read_bytes()) - 100):
        (tmp_path / "cut.png").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match="cut.png'"):
            read_pixels(tmp_path / "cut.png")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"planarconfig": "separate"},
    ],
    ids=["plain", "big-endian", "zlib", "tiled", "bands apart"],
)
def test_a_tiff_keeps_its_16_bits(tmp_path, how):
    tifffile = pytest.importorskip("tifffile", reason="an extra")
    pixels, path = colors(), tmp_path / "a.tif"
    given = pixels.transpose(2, 0, 1) if "planarconfig" in how else pixels
    tifffile.imwrite(path, given, photometric="rgb", extratags=[(ORIENTATION, 3, 1, 6, True)], **how)
    assert np.array_equal(read_pixels(path), turned(pixels, 6)) and np.array_equal(read_image(path).shape[1:], (9, 6))


def test_a_tiff_without_tifffile_says_what_it_needs(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="an extra")
    tifffile.imwrite(tmp_path / "a.tif", colors(), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match=r"a.tif' could not be read: .*pip install"):
        read_pixels(tmp_path / "a.tif")


def test_labels_and_masks_of_16_bits_are_what_they_say_or_refused(tmp_path):
    ids = np.zeros((6, 9), np.uint16)
    ids[2:4, 3:6] = 300
    grey = save_png(tmp_path / "grey.png", np.repeat(ids[..., None], 3, 2))
    assert np.array_equal(read_labels(grey), ids) and np.array_equal(read_mask(grey), ids > 0)
    red = np.zeros((6, 9, 3), np.uint16)
    red[2:4, 3:6, 0] = 128 * 257
    assert np.array_equal(read_mask(save_png(tmp_path / "red.png", red)), ids > 0)
    red[3, 3, 0] += 1
    with pytest.raises(ValueError, match="red.png.* holds colours of 16 bits"):
        read_mask(save_png(tmp_path / "red.png", red))
    clear = np.dstack([colors(), np.where(ids > 0, 65535, 0).astype(np.uint16)])
    assert np.array_equal(read_mask(save_png(tmp_path / "clear.png", clear)), ids > 0)


def test_other_colours_of_16_bits_with_bands_apart_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="an extra")
    tifffile.imwrite(tmp_path / "a.tif", colors(4).transpose(2, 0, 1), photometric="separated", planarconfig="separate")
    with pytest.raises(ValueError, match="a.tif"):
        read_pixels(tmp_path / "a.tif")
