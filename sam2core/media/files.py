"""Image files: the one place that opens them.

Only the kinds in `FORMATS` are read, whatever a file is called. What comes out is turned as its EXIF orientation says.
Files may hold several images (TIFF stacks, animated PNG, WebP and GIF). All that Pillow raises of damaged data
becomes one ValueError that names the file.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from sam2core import storage

PictureSource: TypeAlias = "str | os.PathLike[str] | BinaryIO"

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""What is read, by Pillow's names. None of them starts another program or follows a path that the file names."""
SEQUENCES = ("TIFF", "PNG", "WEBP", "GIF", "AVIF")
"""Those of which a file may be many images. (The second image of a phone's JPEG is a preview or a depth map.)"""
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
LARGEST = 120_000_000
"""Pixels that an image may have to be read whole: as values in fp32 these are 1.4 GB."""
LARGEST_DOWNLOAD = 128 << 20
"""Bytes of an image that is read from an address."""
TIMEOUT = 30.0
"""Seconds in which some byte of it must come."""
ORIENTATION = 274
"""EXIF's and TIFF's tag that says how an image is to be turned."""
TURNS = {
    1: (False, (False, False)),
    2: (False, (False, True)),
    3: (False, (True, True)),
    4: (False, (True, False)),
    5: (True, (False, False)),
    6: (True, (False, True)),
    7: (True, (True, True)),
    8: (True, (True, False)),
}
"""Of each value of that tag: are rows and columns exchanged, and which axes are then flipped."""
_REDUCED, _MASK = 1, 4
_PNG_DEEP = (b"\x10\2", b"\x10\4", b"\x10\6")
"""How PNG says 16 bits a channel of RGB, grey and alpha, RGB and alpha, at byte 24."""
_TIFF_RGB, _BANDS_APART = 2, 2
"""TIFF's photometric interpretation (262) and planar configuration (284)."""
_DAMAGE = (
    *(OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, NotImplementedError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's and tifffile's parsers raise of bytes they do not expect."""


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, ...) as displayed, by the value of `ORIENTATION`; other values than 1 to 8 say nothing."""
    across, (down, along) = TURNS.get(orientation, TURNS[1])
    if across:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if along else 1])


class Stored(Protocol):
    """An image file as a decoder sees it."""

    @property
    def count(self) -> int: ...

    @property
    def in_order(self) -> bool: ...

    @property
    def lossy(self) -> bool: ...

    @property
    def seconds(self) -> list[float] | None:
        """How long each image is shown, where the file says it."""
        ...

    def size(self, frame: int) -> tuple[int, int]:
        """(H, W) as stored."""
        ...

    def orientation(self, frame: int) -> int: ...

    def picture(self, frame: int) -> Image.Image | np.ndarray:
        """As displayed: a PIL image in the file's own mode, or an array (H, W) or (H, W, C)."""
        ...

    def close(self) -> None: ...


def is_address(source: Any) -> bool:
    """Whether a text is an address of the web; a path is none, as its double slash is lost."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _why(path: Path) -> str:
    """Why there is no such file."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        return "no such file; of addresses, those that begin with http:// and https:// are read, given as a text"
    return "no such file"


def _fetched(address: str) -> io.BytesIO:
    """The bytes at an address. Raises ValueError that names it: no answer, no image's size, a page of HTML."""
    try:
        with storage.open_address(address, timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise ValueError(f"{address!r} is a page of HTML, no image")
            content = response.read(LARGEST_DOWNLOAD + 1)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{address!r} could not be read: {getattr(error, 'reason', error)}") from error
    if len(content) > LARGEST_DOWNLOAD:
        raise ValueError(
            f"{address!r} is more than {storage.size_text(LARGEST_DOWNLOAD)}: download it, and give the file"
        )
    return io.BytesIO(content)


class PictureFile:
    """An image file that is open, and the images in it; a context manager.

    Args:
        source: a path, an address (http or https, 128 MiB at most), or a file of bytes.
        name: what messages call it; a path by itself.

    Raises:
        ValueError: no such file, a kind that is not read, damaged data; the message names the file.
    """

    def __init__(self, source: PictureSource, *, name: str | None = None) -> None:
        if is_address(source):
            self.name = repr(source) if name is None else name
            source = _fetched(str(source))
        elif isinstance(source, str | os.PathLike):
            path = Path(source)
            self.name = repr(str(path)) if name is None else name
            if not path.is_file():
                is_folder = f"{self.name} is a folder, not an image file"
                raise ValueError(is_folder if path.is_dir() else f"there is no image file {self.name} ({_why(path)})")
        else:
            self.name = "the image" if name is None else name
        with self._reading():
            self._stored = _open(source)

    @property
    def count(self) -> int:
        """How many images the file holds; a pyramid's smaller copies and a scan's masks are none."""
        with self._reading():
            return self._stored.count

    @property
    def in_order(self) -> bool:
        """Whether an image is made from the ones before it, so that going back means to begin anew."""
        return self._stored.in_order

    @property
    def lossy(self) -> bool:
        """Whether values may differ a little from those that were saved."""
        return self._stored.lossy

    @property
    def seconds(self) -> list[float] | None:
        """How long each image is shown; None where the file does not say."""
        with self._reading():
            return self._stored.seconds

    def size(self, frame: int = 0, *, stored: bool = False) -> tuple[int, int]:
        """(H, W) of an image as displayed, or as stored; nothing is decoded."""
        with self._reading():
            self._check(frame)
            height, width = self._stored.size(frame)
            across = not stored and TURNS.get(self._stored.orientation(frame), TURNS[1])[0]
        return (width, height) if across else (height, width)

    def orientation(self, frame: int = 0) -> int:
        """The value of `ORIENTATION`, 1 where the file says nothing."""
        with self._reading():
            return self._stored.orientation(frame)

    def picture(self, frame: int = 0, *, largest: int | None = LARGEST) -> Image.Image | np.ndarray:
        """An image as displayed, with its own values: a PIL image, or an array where Pillow knows no such values.

        Raises ValueError that names the file: damaged data, no such image, more than `largest` pixels.
        """
        with self._reading():
            self._check(frame)
            height, width = self._stored.size(frame)
            if largest is not None and height * width > largest:
                raise ValueError(
                    f"it has {width}x{height} pixels; at most {largest:,} are read whole "
                    "(a tiled TIFF of any size is read in parts by automask --tile)"
                )
            return self._stored.picture(frame)

    def close(self) -> None:
        self._stored.close()

    def __enter__(self) -> PictureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, frame: int) -> None:
        if frame < 0 or (frame and frame >= self._stored.count):
            count = self._stored.count
            held = "one image" if count == 1 else f"{count} images, 0 to {count - 1}"
            raise ValueError(f"there is no image {frame} in it: it holds {held}")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except UnidentifiedImageError:
            raise ValueError(f"{self.name} is not an image of a kind that is read ({', '.join(FORMATS)})") from None
        except _DAMAGE as error:
            raise ValueError(f"{self.name} could not be read: {error}") from error


def _open(source: PictureSource) -> Stored:
    try:
        found = _Pillow(source)
    except UnidentifiedImageError:
        if _is_tiff(source):  # floats with several channels, bands kept apart
            return _Tiff(source)
        raise
    try:
        deep = found.is_deep_tiff  # of colours of 16 bits Pillow gives the upper 8
    except BaseException:
        found.close()
        raise
    if not deep:
        return found
    found.close()
    return _Tiff(source)


def _is_tiff(source: PictureSource) -> bool:
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            head = file.read(4)
    else:
        source.seek(0)
        head = source.read(4)
        source.seek(0)
    return head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class _Pillow:
    """What Pillow opens."""

    def __init__(self, source: PictureSource) -> None:
        # Pillow maps a file that it knows by name into memory, and then garbles TIFFs whose rows are columns
        self._own = isinstance(source, str | os.PathLike)
        self._file: BinaryIO = Path(source).open("rb") if isinstance(source, str | os.PathLike) else source
        try:
            self._image = self._opened()
        except BaseException:
            self.close()
            raise
        self.in_order = self._image.format != "TIFF"
        self.lossy = self._image.format in LOSSY
        self._pages: list[int] | None = None
        self._orientations: dict[int, int] = {}

    @property
    def is_deep_tiff(self) -> bool:
        """Whether the file is a TIFF whose first image has RGB values of 16 bits.

        Raises ValueError for other colours of 16 bits whose bands are kept apart, which Pillow mixes up.
        """
        if self._image.format != "TIFF":
            return False
        tags: Any = self._image.tag_v2  # type: ignore[attr-defined]
        if max(tags.get(258, (1,))) != 16:
            return False
        if tags.get(262) != _TIFF_RGB and tags.get(284) == _BANDS_APART and tags.get(277, 1) > 1:
            raise ValueError("it keeps bands of 16 bits apart that are not RGB; save them interleaved")
        return tags.get(262) == _TIFF_RGB

    def _opened(self) -> Image.Image:
        Image.init()
        self._file.seek(0)
        head = self._file.read(26)
        self._deep_png = head[:4] == b"\x89PNG" and head[24:] in _PNG_DEEP
        self._file.seek(0)
        return Image.open(self._file, formats=[kind for kind in FORMATS if kind in Image.OPEN])

    @property
    def pages(self) -> list[int]:
        """The images of the file by Pillow's numbers."""
        if self._pages is None:
            self._pages = self._count()
        return self._pages

    def _count(self) -> list[int]:
        image: Any = self._image
        if image.format not in SEQUENCES:
            return [0]
        numbers = list(range(getattr(image, "n_frames", 1)))
        if image.format == "PNG" and len(numbers) > 1 and getattr(image, "default_image", False):
            return numbers[1:]  # the still image for viewers that know no animation
        if image.format == "TIFF" and len(numbers) > 1:
            kinds = []
            for number in numbers:
                image.seek(number)
                kinds.append(int(image.tag_v2.get(254, 0)))  # NewSubfileType
            return [number for number, kind in zip(numbers, kinds) if not kind & (_REDUCED | _MASK)] or [0]
        return numbers

    @property
    def count(self) -> int:
        return len(self.pages)

    @property
    def seconds(self) -> list[float] | None:
        if self._image.format == "TIFF" or self.count == 1:
            return None
        found = []
        for frame in range(self.count):
            self._seek(frame)
            self._image.load()  # WebP says it with the image
            found.append(float(self._image.info.get("duration", 0)) / 1000)
        return found if all(found) else None

    def _seek(self, frame: int) -> None:
        if frame == 0 and self._pages is None:
            return
        number = self.pages[frame]
        if self.in_order and number < self._image.tell():
            self._image = self._opened()  # not every version of Pillow finds back to the start of a PNG
        self._image.seek(number)

    def size(self, frame: int) -> tuple[int, int]:
        self._seek(frame)
        image: Any = self._image
        if image.format == "TIFF":  # some versions of Pillow tell its size as displayed
            return int(image.tag_v2[257]), int(image.tag_v2[256])
        return image.height, image.width

    def orientation(self, frame: int) -> int:
        self._seek(frame)
        if frame not in self._orientations:  # asked before the image is loaded: a TIFF forgets it then
            image: Any = self._image
            if image.format == "TIFF":
                said = image.tag_v2.get(ORIENTATION)
            elif image.format == "PNG" and not _tells_late(image.fp):
                said = Image.Image.getexif(image).get(ORIENTATION)  # PNG's own would decode the image for it
            else:
                said = image.getexif().get(ORIENTATION)
            self._orientations[frame] = int(said) if said in TURNS else 1
        return self._orientations[frame]

    def picture(self, frame: int) -> Image.Image | np.ndarray:
        if self._deep_png:
            orientation = self.orientation(frame)  # before the image is loaded
            return turned(self._deep_pixels(), orientation)
        across, (down, along) = TURNS[self.orientation(frame)]
        self._image.load()
        picture = self._image.copy()  # the next image of the file is decoded into the same memory
        if self._image.format == "TIFF":  # which Pillow turns by itself
            return picture
        if across:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        if down:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if along else picture

    def _deep_pixels(self) -> np.ndarray:
        """A PNG's colours of 16 bits, (H, W, 3 or 4) uint16, as stored; Pillow by itself gives the upper 8 bits.

        Asked for values of the other order of bytes it gives the lower ones; grey and alpha are four bytes a pixel.
        """
        if self.count > 1:
            raise ValueError("it is an animation with colours of 16 bits; save it with 8")
        image: Any = self._opened()
        kind = str(image.tile[0][3])
        if kind.startswith("LA"):
            return self._decoded("RGBA").view(">u2").astype(np.uint16)[..., [0, 0, 0, 1]]
        return self._decoded(kind).astype(np.uint16) << 8 | self._decoded(kind.replace("16B", "16L"))

    def _decoded(self, kind: str) -> np.ndarray:
        """The file decoded as if its pixels were of another of Pillow's kinds of as many bytes."""
        image: Any = self._opened()
        image.tile = [(*tile[:3], kind) for tile in image.tile]
        return np.array(image)

    def close(self) -> None:
        if self._own:
            self._file.close()


def _tells_late(file: BinaryIO) -> bool:
    """Whether a PNG has words or EXIF behind its pixels (chunks are length, kind, data, checksum)."""
    before, seen = file.tell(), False
    try:
        at = 8
        while True:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                return False
            seen = seen or head[4:] == b"IDAT"
            if seen and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            at += 12 + int.from_bytes(head[:4], "big")
    finally:
        file.seek(before)


class _Tiff:
    """TIFFs with values or bands that Pillow does not know, through tifffile."""

    in_order = False
    lossy = False
    seconds: list[float] | None = None

    def __init__(self, source: PictureSource) -> None:
        try:
            import tifffile
        except ModuleNotFoundError as error:
            raise ValueError('this kind of TIFF needs tifffile: pip install "sam2core[raster]"') from error
        self._file: Any = tifffile.TiffFile(source)
        self._pages = tiff_pages(self._file)
        self.count = len(self._pages)

    def size(self, frame: int) -> tuple[int, int]:
        page = self._pages[frame]
        return int(page.imagelength), int(page.imagewidth)

    def orientation(self, frame: int) -> int:
        return tiff_orientation(self._pages[frame])

    def picture(self, frame: int) -> Image.Image | np.ndarray:
        page = self._pages[frame]
        pixels = page.asarray()
        if pixels.ndim == 3 and int(page.planarconfig) != 1:
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.ndim == 3 and pixels.shape[2] == 2:
            pixels = pixels[..., 0]  # grey and alpha
        return turned(pixels, self.orientation(frame))

    def close(self) -> None:
        self._file.close()


def tiff_pages(file: Any) -> list[Any]:
    """The images of a file that tifffile opened; smaller copies and masks are none."""
    pages: list[Any] = [page.aspage() for page in file.pages]
    return [page for page in pages if not int(page.subfiletype) & (_REDUCED | _MASK)] or pages[:1]


def tiff_orientation(page: Any) -> int:
    """The orientation of one of tifffile's pages."""
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in TURNS else 1
