"""An image is the same to all who read it: predictors, training, clicks, the command line, the page, rasters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sam2core.data.pictures import read_picture
from sam2core.jobs import pictures as jobs
from sam2core.media.files import TURNS
from sam2core.media.frames import open_source
from sam2core.media.images import as_bytes, read_image
from sam2core.media.rasters import open_raster
from tests.media.test_images import pictures, save


@pytest.mark.parametrize("kind", pictures())
def test_all_readers_see_the_same_array(kind: str, tmp_path: Path) -> None:
    picture, saved = pictures()[kind]
    suffix = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}[saved]
    for orientation in TURNS:
        path = save(picture, saved, tmp_path / f"{orientation}{suffix}", orientation)
        seen = read_image(path)
        shown = as_bytes(seen)
        assert np.array_equal(read_picture(path), shown)  # training and clicks
        assert torch.equal(read_image(jobs.read_picture(path, None, print)), seen)  # segment and automask
        with open_source(path) as source:
            assert torch.equal(read_image(source[0]), seen)  # track
        if saved != "TIFF":
            assert torch.equal(read_image(np.asarray(open_raster(path)[:, :])), seen)


@pytest.mark.parametrize("kind", ["RGB png", "I;16 png", "CMYK jpg", "F tif", "P tif"])
def test_the_page_sees_the_same_array(kind: str, tmp_path: Path) -> None:
    media = pytest.importorskip("sam2core_web.media")
    from sam2core_web.limits import Limits

    path = save(*pictures()[kind], tmp_path / "a", 6)
    assert torch.equal(read_image(media.read_picture(path, Limits())), read_image(path))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(70, 90), (70, 90, 3)])
def test_a_tiled_tiff_is_read_whole_through_open_slices(shape: tuple, compression: str | None, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    kind = "rgb" if len(shape) == 3 else "minisblack"
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for page in (pixels, 255 - pixels):
            out.write(page, tile=(32, 32), compression=compression, photometric=kind)
    for frame, wanted in enumerate((pixels, 255 - pixels)):
        raster = open_raster(tmp_path / "a.tif", frame=frame)
        assert np.array_equal(np.asarray(raster[:, :]).reshape(shape), wanted)
        assert np.array_equal(np.asarray(raster[10:50, 20:]).reshape(-1), wanted[10:50, 20:].reshape(-1))
    with pytest.raises(ValueError, match=r"no image 2 in .*a\.tif'"):
        open_raster(tmp_path / "a.tif", frame=2)
