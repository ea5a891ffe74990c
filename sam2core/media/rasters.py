"""Images too large to hold: read window by window."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sam2core.media.files import TURNS, tiff_orientation, tiff_pages
from sam2core.media.images import read_pixels
from sam2core.storage import FileError

TIFF = (".tif", ".tiff", ".btf", ".tf8")
GREY_FROM_WHITE, GREY, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
COLOURS = (GREY_FROM_WHITE, GREY, RGB, PALETTE, YCBCR)
"""TIFF's photometric interpretations that are read; what is stored as YCbCr is decoded to RGB."""


class Window(Protocol):
    """An image that can be read in part: an array, a memory map, a zarr array, a `raster`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, index: Any) -> Any: ...


def open_raster(source: Any, size: tuple[int, int] | None = None, *, frame: int = 0) -> Window:
    """Anything that can be read in windows: slicing by rows and columns gives pixels (h, w) or (h, w, C).

    `source` is an array, a memory map, a zarr array or whatever has a ``shape`` and slices; a callable
    ``read(y0, y1, x0, x1)`` with the (H, W) of the image as `size`; or a path. TIFF files are read a strip or tile at
    a time, when tifffile is installed (``sam2core[raster]``); .npy files are mapped; other files are decoded whole.
    `frame` is which image of a file that holds several.
    Raises ValueError for anything else, ModuleNotFoundError for a TIFF without tifffile.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"there is no image file {str(path)!r}")
        if path.suffix.lower() in TIFF:
            return _Tiff.open(path, frame)
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return read_pixels(path, frame, largest=None)
    if callable(source) and not hasattr(source, "shape"):
        if size is None:
            raise ValueError("a callable that reads windows needs the (H, W) of the image as size")
        return _Callable(source, size)
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        return source
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    raise ValueError(f"a raster is a path, an array that slices, or a callable with a size, not {kind}")


def _spans(index: Any, shape: Sequence[int]) -> list[tuple[int, int]]:
    """First and last rows and columns of a window, whose slices may be open."""
    rows, columns = index
    return [slices.indices(side)[:2] for slices, side in zip((rows, columns), shape)]


class _Callable:
    def __init__(self, read: Callable[[int, int, int, int], Any], size: tuple[int, int]) -> None:
        self.read, self.shape = read, (int(size[0]), int(size[1]))

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        (y0, y1), (x0, x1) = _spans(index, self.shape)
        return np.asarray(self.read(y0, y1, x0, x1))


class _Tiff:
    """A page of a TIFF file: only the strips or tiles that a window touches are read."""

    def __init__(self, file: Any, page: Any, path: Path) -> None:
        self.file, self.page = file, page
        if page.planarconfig != 1 and page.samplesperpixel > 1:
            raise ValueError(f"{str(path)!r} keeps its bands apart; only TIFF files with interleaved bands are read")
        if page.photometric not in COLOURS:
            kind = getattr(page.photometric, "name", page.photometric)
            raise ValueError(f"{str(path)!r} has colours of kind {kind}; save it in grey, RGB or with a palette")
        self.across, self.flips = TURNS[tiff_orientation(page)]
        size = (page.imagelength, page.imagewidth)
        self.palette = None if page.photometric != PALETTE else (page.colormap.T >> 8).astype(np.uint8)
        bands = 3 if self.palette is not None else 1 if page.samplesperpixel == 2 else page.samplesperpixel
        self.shape: tuple[int, ...] = (*(size[::-1] if self.across else size), bands)

    @classmethod
    def open(cls, path: Path, frame: int) -> Window:
        import tifffile

        try:
            file = tifffile.TiffFile(path)
            pages = tiff_pages(file)
        except tifffile.TiffFileError as error:
            raise ValueError(f"{str(path)!r} could not be read: {error}") from error
        if frame >= len(pages):
            raise ValueError(f"there is no image {frame} in {str(path)!r}: it holds {len(pages)}")
        page = pages[frame]
        plain = page.photometric in (GREY, RGB) and page.planarconfig == 1 and page.samplesperpixel != 2
        plain = plain and tiff_orientation(page) == 1
        if plain and page.is_memmappable and page.ndim in (2, 3) and page.bitspersample > 7:
            file.close()
            return tifffile.memmap(path, page=page.index, mode="r")
        return cls(file, page, path)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        spans = _spans(index, self.shape)
        for axis, flipped in enumerate(self.flips):
            if flipped:
                first, last = spans[axis]
                spans[axis] = self.shape[axis] - last, self.shape[axis] - first
        pixels = self._read(*(spans[::-1] if self.across else spans))
        if self.across:
            pixels = pixels.swapaxes(0, 1)
        pixels = pixels[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]
        return self._shown(pixels)

    def _shown(self, pixels: np.ndarray) -> np.ndarray:
        """Values as Pillow shows them: palettes looked up, white at the top, fewer than eight bits spread."""
        if self.palette is not None:
            return self.palette[pixels[..., 0]]
        pixels = pixels[..., : self.shape[2]]
        if self.page.bitspersample < 8:
            pixels = pixels.astype(np.uint8) * np.uint8(255 // (2**self.page.bitspersample - 1))
        if self.page.photometric == GREY_FROM_WHITE:
            whole = 1 if np.issubdtype(pixels.dtype, np.floating) else np.iinfo(pixels.dtype).max
            pixels = whole - pixels
        return pixels

    def _read(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Pixels (h, w, samples) as they lie in the file; what was never written is 0."""
        page = self.page
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        across = -(-page.imagewidth // width)
        window = np.zeros((rows[1] - rows[0], columns[1] - columns[0], page.samplesperpixel), page.dtype)
        for down in range(rows[0] // height, -(-rows[1] // height)):
            for along in range(columns[0] // width, -(-columns[1] // width)):
                pixels = self._segment(down * across + along)
                if pixels is None:
                    continue
                y, x = down * height, along * width
                y0, y1 = max(rows[0], y), min(rows[1], y + pixels.shape[0])
                x0, x1 = max(columns[0], x), min(columns[1], x + pixels.shape[1])
                window[y0 - rows[0] : y1 - rows[0], x0 - columns[0] : x1 - columns[0]] = pixels[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]
        return window

    def _segment(self, number: int) -> np.ndarray | None:
        page = self.page
        if not page.databytecounts[number]:
            return None
        self.file.filehandle.seek(page.dataoffsets[number])
        data = self.file.filehandle.read(page.databytecounts[number])
        pixels, _, _ = page.decode(data, number, jpegtables=page.jpegtables)
        return None if pixels is None else pixels[0]


def coordinates(path: Path) -> tuple[Any, str | None]:
    """The map from an image's pixels to coordinates, and the name of their system; identity and None without one.

    Needs rasterio (``sam2core[geo]``). Raises FileError where it cannot read the file.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    from rasterio.transform import Affine

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                if raster.crs is None:
                    return Affine.identity(), None
                code = raster.crs.to_epsg()
                return raster.transform, f"urn:ogc:def:crs:EPSG::{code}" if code else raster.crs.to_string()
    except RasterioIOError as error:
        raise FileError(f"cannot read the coordinates of {path}: {error}") from error
