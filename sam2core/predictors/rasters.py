"""Pictures too large to hold: read window by window."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.predictors.tiles import Window
from sam2core.predictors.transforms import open_image, unpack_image

TIFF = (".tif", ".tiff", ".btf", ".tf8")


def open_raster(source: Any, size: tuple[int, int] | None = None) -> Window:
    """Anything that can be read in windows: slicing by rows and columns gives pixels (h, w) or (h, w, C).

    `source` is an array, a memory map, a zarr array or whatever has a ``shape`` and slices; a callable
    ``read(y0, y1, x0, x1)`` with the (H, W) of the picture as `size`; or a path. TIFF files are read a strip or tile at
    a time, when tifffile is installed (``sam2core[raster]``); .npy files are mapped; other files are decoded whole.
    Raises ValueError for anything else, ModuleNotFoundError for a TIFF without tifffile.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"there is no image file {str(path)!r}")
        if path.suffix.lower() in TIFF:
            return _Tiff.open(path)
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return unpack_image(open_image(path))
    if callable(source) and not hasattr(source, "shape"):
        if size is None:
            raise ValueError("a callable that reads windows needs the (H, W) of the picture as size")
        return _Callable(source, size)
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        return source
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    raise ValueError(f"a raster is a path, an array that slices, or a callable with a size, not {kind}")


class _Callable:
    def __init__(self, read: Callable[[int, int, int, int], Any], size: tuple[int, int]) -> None:
        self.read, self.shape = read, (int(size[0]), int(size[1]))

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        rows, columns = index
        return np.asarray(self.read(rows.start, rows.stop, columns.start, columns.stop))


class _Tiff:
    """The first page of a TIFF file: only the strips or tiles that a window touches are read."""

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.page = file, file.pages[0]
        if self.page.planarconfig != 1 and self.page.samplesperpixel > 1:
            raise ValueError(f"{str(path)!r} keeps its bands apart; only TIFF files with interleaved bands are read")
        self.shape: tuple[int, ...] = (self.page.imagelength, self.page.imagewidth, self.page.samplesperpixel)

    @classmethod
    def open(cls, path: Path) -> Window:
        import tifffile

        file = tifffile.TiffFile(path)
        page = file.pages[0]
        if page.is_memmappable and page.ndim in (2, 3):
            file.close()
            return tifffile.memmap(path, page=0, mode="r")
        return cls(file, path)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        page, (rows, columns) = self.page, index
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        across = -(-page.imagewidth // width)
        window = np.zeros((rows.stop - rows.start, columns.stop - columns.start, self.shape[2]), page.dtype)
        for down in range(rows.start // height, -(-rows.stop // height)):
            for along in range(columns.start // width, -(-columns.stop // width)):
                pixels = self._segment(down * across + along)
                if pixels is None:  # never written: background
                    continue
                y, x = down * height, along * width
                y0, y1 = max(rows.start, y), min(rows.stop, y + pixels.shape[0])
                x0, x1 = max(columns.start, x), min(columns.stop, x + pixels.shape[1])
                window[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = pixels[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]
        return window

    def _segment(self, number: int) -> np.ndarray | None:
        page = self.page
        self.file.filehandle.seek(page.dataoffsets[number])
        data = self.file.filehandle.read(page.databytecounts[number])
        pixels, _, _ = page.decode(data, number, jpegtables=page.jpegtables)
        return None if pixels is None else pixels[0]
