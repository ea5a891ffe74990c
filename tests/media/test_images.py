"""Images of every kind that Pillow saves: each is read once, turned as displayed, or refused by name."""

from __future__ import annotations

import functools
import http.server
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam2core.media import files
from sam2core.media.files import TURNS, PictureFile, turned
from sam2core.media.images import as_bytes, at_hand, image_count, image_size, read_image, read_pixels, read_rgb

HEIGHT, WIDTH = 6, 9


def pattern(seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 that looks like nothing else when it is turned."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _grey(dtype: str) -> Image.Image:
    values = pattern()[..., 0].astype(np.uint16) * 257 + 3
    return Image.frombytes({"<u2": "I;16", ">u2": "I;16B"}[dtype], (WIDTH, HEIGHT), values.astype(dtype).tobytes())


def pictures() -> dict[str, tuple[Image.Image, str]]:
    """An image of every mode, with the kind of file that keeps it."""
    rgb = Image.fromarray(pattern())
    alpha = Image.fromarray(pattern(1)[..., 0])
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey_alpha = rgb.convert("L")
    grey_alpha.putalpha(alpha)
    clear = rgb.quantize(7)
    clear.info["transparency"] = 2
    return {
        "RGB png": (rgb, "PNG"),
        "RGB jpg": (rgb, "JPEG"),
        "RGB webp": (rgb, "WEBP"),
        "RGB tif": (rgb, "TIFF"),
        "RGBA png": (rgba, "PNG"),
        "RGBA webp": (rgba, "WEBP"),
        "RGBA tif": (rgba, "TIFF"),
        "RGBX tif": (rgb.convert("RGBX"), "TIFF"),
        "L png": (rgb.convert("L"), "PNG"),
        "L jpg": (rgb.convert("L"), "JPEG"),
        "L tif": (rgb.convert("L"), "TIFF"),
        "LA png": (grey_alpha, "PNG"),
        "LA tif": (grey_alpha, "TIFF"),
        "1 png": (rgb.convert("1"), "PNG"),
        "1 tif": (rgb.convert("1"), "TIFF"),
        "P png": (rgb.quantize(7), "PNG"),
        "P tif": (rgb.quantize(7), "TIFF"),
        "P clear png": (clear, "PNG"),
        "CMYK jpg": (rgb.convert("CMYK"), "JPEG"),
        "CMYK tif": (rgb.convert("CMYK"), "TIFF"),
        "YCbCr jpg": (rgb.convert("YCbCr"), "JPEG"),
        "LAB tif": (Image.frombytes("LAB", (WIDTH, HEIGHT), pattern().tobytes()), "TIFF"),
        "I;16 png": (_grey("<u2"), "PNG"),
        "I;16 tif": (_grey("<u2"), "TIFF"),
        "I;16B tif": (_grey(">u2"), "TIFF"),
        "I tif": (Image.fromarray(pattern()[..., 0].astype(np.int32) * 200), "TIFF"),
        "F tif": (Image.fromarray(pattern()[..., 0].astype(np.float32) / 255), "TIFF"),
    }


def save(picture: Image.Image, kind: str, path: Path, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    words = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    picture.save(path, kind, exif=exif, **words)
    return path


@pytest.mark.parametrize("kind", pictures())
def test_every_mode_and_turn_is_the_same_picture(kind: str, tmp_path: Path) -> None:
    picture, saved = pictures()[kind]
    upright = read_pixels(save(picture, saved, tmp_path / "upright"))
    wanted = read_image(upright)
    if saved != "JPEG" and picture.mode not in ("LAB", "YCbCr"):
        known = picture if picture.mode[0] in "IF" else picture.convert("RGB")
        assert torch.equal(wanted, read_image(known))
    for orientation in TURNS:
        path = save(picture, saved, tmp_path / f"{orientation}", orientation)
        pixels = turned(upright, orientation)
        assert np.array_equal(read_pixels(path), pixels)
        assert torch.equal(read_image(path), read_image(pixels))
        assert np.array_equal(read_rgb(path), as_bytes(pixels))
        assert np.array_equal(read_rgb(io.BytesIO(path.read_bytes()), name="it"), as_bytes(pixels))
        assert image_size(path) == pixels.shape[:2] and image_size(path, stored=True) == (HEIGHT, WIDTH)
        with PictureFile(path) as file:
            assert (file.count, file.orientation(), file.size()) == (1, orientation, pixels.shape[:2])
            assert np.array_equal(np.asarray(file.picture()).shape[:2], pixels.shape[:2])
            assert file.orientation() == orientation and file.size() == pixels.shape[:2]
    assert image_count(path) == 1


def test_sixteen_bits_and_floats_are_scaled_by_their_type(tmp_path: Path) -> None:
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 1200
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png")[..., 1], np.rint(values / 257))
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(read_rgb(tmp_path / "a.tif")[..., 2], np.rint(values / 257))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_tiffs_with_channels(channels: int, dtype: str, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).random((HEIGHT, WIDTH, channels)).astype(dtype)
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", **extra)
    assert torch.equal(read_image(tmp_path / "a.tif"), torch.from_numpy(values[..., :3]).float().permute(2, 0, 1))
    tifffile.imwrite(tmp_path / "b.tif", values * 300, photometric="rgb", **extra)
    with pytest.raises(ValueError, match=r"b\.tif.*floating images lie in \[0, 1\]"):
        read_image(tmp_path / "b.tif")


def test_other_kinds_of_files_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(ValueError, match=r"picture\.jpg.*not an image of a kind that is read \(JPEG"):
        read_image(path)
    with pytest.raises(ValueError, match="there is no image file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


def test_values_that_mean_nothing_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tif")
    Image.fromarray(np.full((4, 4), 17.0, np.float32)).save(tmp_path / "wide.tif")
    Image.fromarray(np.full((4, 4), -4, np.int32)).save(tmp_path / "below.tif")
    for name, cause in (("nan", "not finite"), ("wide", r"lie in \[0, 1\]"), ("below", r"lie in 0\.\.65535")):
        with pytest.raises(ValueError, match=rf"{name}\.tif.*{cause}"):
            read_pixels(tmp_path / f"{name}.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_too_large_to_hold_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 13300, 13300, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(ValueError, match=r"large\.png.*13300x13300 pixels; at most 120,000,000"):
        read_image(tmp_path / "large.png")
    assert image_size(tmp_path / "large.png") == (13300, 13300)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_damaged_files_are_read_or_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Bytes flipped, files cut: whatever happens is an image or one error that names the file."""
    Image.fromarray(np.kron(pattern(), np.ones((8, 8, 1), np.uint8))).save(buffer := io.BytesIO(), kind)
    whole, generator, refused = buffer.getvalue(), np.random.default_rng(7), 0
    for number in range(22):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[int(generator.integers(1, len(data))) :]
        else:
            for at in generator.integers(0, min(len(data), 300 if number % 3 == 1 else len(data)), 8):
                data[at] ^= int(generator.integers(1, 256))
        path = tmp_path / f"{number}.{kind.lower()}"
        path.write_bytes(data)
        for read in (read_image, image_size, image_count):
            try:
                read(path)
            except ValueError as error:
                assert path.name in str(error)
                refused += read is read_image
    assert refused > 5


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which its files are."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_picture_at_an_address_is_read(served, monkeypatch):
    folder, address = served
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "page.html").write_text("<html>")
    (folder / "text.png").write_text("no image")
    assert (read_pixels(f"{address}/a.png") == pixels).all()
    assert (at_hand(f"{address}/a.png") == pixels).all() and at_hand(pixels) is pixels
    for name, words in (
        ("page.html", "page of HTML, no image"),
        ("text.png", "text.png"),
        ("nothing.png", "nothing.png' could not be read"),
    ):
        with pytest.raises(ValueError, match=words):
            read_image(f"{address}/{name}")
    monkeypatch.setattr(files, "LARGEST_DOWNLOAD", 20)
    with pytest.raises(ValueError, match="more than 20"):
        read_image(f"{address}/a.png")


@pytest.mark.parametrize("source", ["ftp://somewhere/a.png", "file:///a.png", Path("https://somewhere/a.png")])
def test_other_addresses_are_refused_in_words(source):
    with pytest.raises(ValueError, match="those that begin with http:// and https:// are read, given as a text"):
        read_image(source)
