"""Images of any size: tiles, seams, windows; with a segmenter that is never wrong, so that only the seams can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from sam2core.media.images import read_image
from sam2core.media.rasters import open_raster
from sam2core.ops import rle
from sam2core.predictors import tiles
from sam2core.predictors.automask import AutoMask, MaskGenerator
from sam2core.predictors.tiles import stream_tiles, tile_grid


def perfect(tile):
    """Every region of equal, non-zero value."""
    found = []
    size = tile.shape[:2]
    grey = tile if tile.ndim == 2 else tile[..., 0]
    for value in np.unique(grey[grey > 0]):
        labels, count = ndimage.label(grey == value)
        for label in range(1, count + 1):
            inside = labels == label
            y, x = np.nonzero(inside)
            found.append(
                AutoMask(
                    size=size,
                    runs=rle.runs(inside),
                    box=(int(x.min()), int(y.min()), int(x.max()), int(y.max())),
                    iou=0.9,
                    stability=1.0,
                    point=(float(x[0]), float(y[0])),
                    crop=(0, 0, size[1], size[0]),
                )
            )
    return found


def scene():
    """Objects that lie in a tile, in a seam, across two and four tiles, along a whole side, and touch each other."""
    picture = np.zeros((300, 330), np.uint8)
    y, x = np.mgrid[:300, :330]
    picture[(x - 110) ** 2 + (y - 105) ** 2 < 60**2] = 1  # four tiles and more
    picture[200:208, 5:325] = 2  # as wide as the image
    picture[20:30, 20:30] = 3
    picture[95:99, 190:196] = 4  # in a seam
    picture[250:290, 40:120] = 5
    picture[250:290, 120:160] = 6  # its neighbour
    picture[215:300, 300:330] = 7  # at the image's corner
    return picture


@pytest.mark.parametrize("strip", [1, 2000, 2**24], ids=["a column", "some columns", "all of it"])
@pytest.mark.parametrize(("tile", "overlap"), [(100, 12), (128, 32), (64, 8), (400, 50)])
def test_every_object_is_found_once_and_whole(monkeypatch, tile, overlap, strip):
    monkeypatch.setattr(tiles, "STRIP", strip)
    picture = scene()
    found = list(stream_tiles(perfect, picture, tile=tile, overlap=overlap))
    expected = {value: picture == value for value in range(1, 8)}
    assert len(found) == len(expected)
    for value, inside in expected.items():
        (match,) = [mask for mask in found if (mask.mask & inside).sum() > 0.5 * inside.sum()]
        assert np.array_equal(match.mask, inside), value
        y, x = np.nonzero(inside)
        assert match.box == (x.min(), y.min(), x.max(), y.max()) and match.area == inside.sum()


def test_masks_come_before_the_last_row_is_read():
    picture, read = scene(), []

    def segment(tile):
        read.append(tile.shape)
        return perfect(tile)

    count = sum(len(row) for row in tile_grid(picture.shape, 100, 12))
    stream = stream_tiles(segment, picture, tile=100, overlap=12)
    first = next(stream)
    assert first.area == 100 and len(read) < count
    assert len(list(stream)) == 6 and len(read) == count


def test_a_scrap_at_a_cut_that_the_next_tile_does_not_confirm_is_dropped():
    picture = np.zeros((100, 190), np.uint8)

    def segment(tile):
        inside = np.zeros(tile.shape, bool)
        if not segment.calls:
            inside[40:50, 95:100] = True  # within the strip both tiles see, at the first one's edge
        segment.calls += 1
        return perfect(inside.astype(np.uint8))

    segment.calls = 0
    assert list(stream_tiles(segment, picture, tile=100, overlap=10)) == [] and segment.calls == 2


@pytest.mark.parametrize("length", [1, 99, 100, 101, 187, 188, 189, 1000])
def test_tiles_cover_the_picture_and_overlap(length):
    rows = tile_grid((50, length), 100, 12)
    assert len(rows) == 1
    assert rows[0][0][0] == 0 and rows[0][-1][2] == length
    for left, right in zip(rows[0], rows[0][1:]):
        assert left[2] - right[0] >= 12 and left[2] - left[0] == 100


def test_sizes_that_make_no_tiles():
    with pytest.raises(ValueError, match="twice the overlap"):
        tile_grid((100, 100), 64, 32)
    with pytest.raises(ValueError, match=r"\(H, W\) or \(H, W, C\)"):
        next(stream_tiles(perfect, np.zeros(5)))


class TestRasters:
    def test_arrays_maps_and_callables(self, tmp_path):
        picture = scene()
        np.save(tmp_path / "a.npy", picture)
        for source in (
            picture,
            open_raster(tmp_path / "a.npy"),
            open_raster(lambda y0, y1, x0, x1: picture[y0:y1, x0:x1], picture.shape),
        ):
            assert np.array_equal(open_raster(source)[10:50, 100:140], picture[10:50, 100:140])

    @pytest.mark.parametrize("options", [{}, {"tile": (64, 48)}, {"rowsperstrip": 7}, {"compression": "zlib"}])
    @pytest.mark.parametrize("bands", [1, 3])
    def test_tiff(self, tmp_path, options, bands):
        tifffile = pytest.importorskip("tifffile", reason="TIFF windows are an extra")
        picture = scene() if bands == 1 else np.stack([scene()] * 3, axis=2)
        if "rowsperstrip" in options:
            options = {**options, "compression": "zlib"}
        tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb" if bands == 3 else "minisblack", **options)
        raster = open_raster(tmp_path / "a.tif")
        assert tuple(raster.shape[:2]) == (300, 330)
        for window in (
            (slice(0, 300), slice(0, 330)),
            (slice(60, 131), slice(47, 145)),
            (slice(299, 300), slice(0, 1)),
        ):
            assert np.array_equal(np.squeeze(raster[window]), np.squeeze(picture[window]))

    @pytest.mark.parametrize("packed", [{}, {"compression": "zlib", "rowsperstrip": 7}])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_turned_tiff_is_read_as_whole_files_are(self, tmp_path, packed, orientation):
        tifffile = pytest.importorskip("tifffile", reason="TIFF windows are an extra")
        picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        turned = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", extratags=turned, **packed)
        self.compare(tmp_path / "a.tif")

    @pytest.mark.parametrize("kind", ["palette", "white", "white16", "bits", "big", "big packed", "grey with alpha"])
    def test_a_tiff_of_any_kind_of_values_is_read_as_whole_files_are(self, tmp_path, kind):
        tifffile = pytest.importorskip("tifffile", reason="TIFF windows are an extra")
        path, picture = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
        deep = picture.astype(np.uint16) * 257
        if kind == "palette":
            Image.fromarray(np.stack([picture, picture.T.reshape(40, 56), 255 - picture], axis=2)).quantize(16).save(
                path
            )
        elif kind == "bits":
            Image.fromarray(picture > 99).save(path)
        elif kind == "grey with alpha":
            Image.fromarray(np.stack([picture, picture], axis=2), "LA").save(path)
        elif kind == "white":
            tifffile.imwrite(path, picture, photometric="miniswhite")
        elif kind == "white16":
            tifffile.imwrite(path, deep, photometric="miniswhite", compression="zlib")
            assert np.array_equal(open_raster(path)[0:40, 0:56][..., 0], 65535 - deep)
            return
        else:
            tifffile.imwrite(path, deep, byteorder=">", **({} if kind == "big" else {"compression": "zlib"}))
        self.compare(path)

    def compare(self, path):
        whole, raster = read_image(path), open_raster(path)
        assert tuple(raster.shape[:2]) == tuple(whole.shape[1:])
        for rows, columns in ((slice(0, whole.shape[1]), slice(0, whole.shape[2])), (slice(3, 31), slice(9, 22))):
            assert torch.equal(read_image(np.asarray(raster[rows, columns])), whole[:, rows, columns])

    def test_tiles_of_a_tiff_that_were_never_written_are_black(self, tmp_path):
        tifffile = pytest.importorskip("tifffile", reason="TIFF windows are an extra")
        tile = np.full((16, 16), 9, np.uint8)
        tifffile.imwrite(
            tmp_path / "a.tif", iter([tile, None, None, tile]), shape=(32, 32), dtype=np.uint8, tile=(16, 16),
            compression="zlib", photometric="minisblack",
        )  # fmt: skip
        seen = np.asarray(open_raster(tmp_path / "a.tif")[0:32, 0:32]).reshape(32, 32)
        assert (seen[:16, :16] == 9).all() and (seen[16:, 16:] == 9).all() and seen.sum() == 2 * 9 * 256

    def test_a_tiff_whose_colours_are_not_read_says_so(self, tmp_path):
        tifffile = pytest.importorskip("tifffile", reason="TIFF windows are an extra")
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 56, 4), np.uint8), photometric="separated")
        with pytest.raises(ValueError, match="SEPARATED.*RGB"):
            open_raster(tmp_path / "a.tif")
        planes = np.zeros((3, 40, 56), np.uint8)
        tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate")
        with pytest.raises(ValueError, match="bands apart"):
            open_raster(tmp_path / "b.tif")

    def test_what_is_no_raster(self, tmp_path):
        with pytest.raises(ValueError, match="no image file"):
            open_raster(tmp_path / "a.tif")
        with pytest.raises(ValueError, match="as size"):
            open_raster(lambda *window: None)
        with pytest.raises(ValueError, match="not builtins.int"):
            open_raster(3)


def test_a_model_over_tiles():
    from sam2core import registry

    model = registry.build("test_tiny", weights=False, image_size=64)
    generator = MaskGenerator(model, points_per_side=2, iou_threshold=0, stability_threshold=0)
    picture = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    steps = []
    found = list(
        stream_tiles(generator.generate, picture, tile=64, overlap=16, progress=lambda *step: steps.append(step))
    )
    assert steps[-1] == (6, 6) and found
    assert all(mask.size == (100, 150) and mask.mask.shape == (100, 150) for mask in found)
