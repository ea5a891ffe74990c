"""GeoJSON: polygons, holes and pieces of labels, in pixels and in the coordinates of a GeoTIFF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.data import geojson
from sam2core.data.footage import Shape, ShapeFootage
from sam2core.data.writing import Written
from sam2core.ops import rle

rasterio = pytest.importorskip("rasterio", reason="coordinates are an extra")
features = pytest.importorskip("rasterio.features")


def labels() -> np.ndarray:
    """A square with a hole, an object of two pieces, and one that is nowhere."""
    masks = np.zeros((3, 12, 16), bool)
    masks[0, 2:8, 2:8] = True
    masks[0, 4:6, 4:6] = False
    masks[1, 9:11, 0:3] = masks[1, 0:2, 12:16] = True
    return masks


def written(picture: Path, root: Path) -> tuple[dict, list[str]]:
    shapes = [Shape(number, rle.encode(mask), "") for number, mask in enumerate(labels(), 1)]
    item = ShapeFootage(picture.name, (picture,), (shapes,), drawn_on=(12, 16), classes={1: "lake"}, origin=picture)
    said = Written()
    root.mkdir()
    geojson.write(root, [item], said)
    return json.loads((root / f"{picture.stem}.geojson").read_text()), list(said.lost)


def test_a_picture_without_coordinates_is_written_in_pixels(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / "pond.png")
    tree, lost = written(tmp_path / "pond.png", tmp_path / "out")
    assert "crs" not in tree and any("no coordinate system" in line for line in lost)
    lake, island = tree["features"][:2]
    assert lake["geometry"]["type"] == "Polygon" and len(lake["geometry"]["coordinates"]) == 2, "a ring and its hole"
    assert lake["properties"] == {"id": 1, "category": "lake", "pixels": 32}
    assert island["geometry"]["type"] == "MultiPolygon" and island["properties"]["category"] == "object"
    for feature, mask in zip(tree["features"], labels()):
        if mask.any():
            np.testing.assert_array_equal(features.rasterize([feature["geometry"]], out_shape=(12, 16)) > 0, mask)


def test_a_geotiffs_polygons_lie_in_its_coordinates(tmp_path: Path) -> None:
    place = rasterio.transform.from_origin(500_000, 4_600_000, 10, 10)
    about = {"driver": "GTiff", "height": 12, "width": 16, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "pond.tif", "w", crs="EPSG:32633", transform=place, **about) as raster:
        raster.write(np.zeros((3, 12, 16), np.uint8))
    tree, lost = written(tmp_path / "pond.tif", tmp_path / "out")
    assert tree["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert not any("coordinate system" in line for line in lost)
    drawn = features.rasterize([tree["features"][0]["geometry"]], out_shape=(12, 16), transform=place)
    np.testing.assert_array_equal(drawn > 0, labels()[0])
