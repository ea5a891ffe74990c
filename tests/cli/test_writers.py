"""`--write` of labels: what a run found, read back by others' readers and by ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.data.formats import open_data
from sam2core.ops import rle

TINY = ("-m", "test_tiny", "--weights", "none", "--image-size", "64", "--threads", "1")
SAID = {
    "street.JPG": [
        {"box": [2, 3, 20, 25], "category": "car"},
        {"box": [10, 5, 38, 28], "category": "car"},
    ],
    "dog 2.png": [{"box": [5, 5, 30, 20], "category": "dog"}],
}


@pytest.fixture
def photos(tmp_path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for index, name in enumerate([*SAID, "empty.png"]):
        values = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(place / name)
    (tmp_path / "boxes.json").write_text(json.dumps(SAID))
    return place


def masks_of(out: Path, name: str) -> list[np.ndarray]:
    masks = json.loads((out / f"{name}.json").read_text())["masks"]
    return [rle.decode(mask["segmentation"]) for mask in masks if mask["area"]]


def test_coco_as_pycocotools_and_evaluate_read_it(run, photos, tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="the reference is not installed")
    out = tmp_path / "out"
    words = ("segment", photos, "--prompts", tmp_path / "boxes.json", "-o", out, "--write", "coco,yolo,shards", *TINY)
    ended = run(*words)
    assert ended.code == 0, ended.err
    assert not list(out.glob("*.png"))  # nothing was asked to be drawn
    held = coco.COCO(str(out / "coco" / "annotations.json"))
    assert {one["file_name"] for one in held.imgs.values()} == {"street.JPG", "dog 2.png", "empty.png"}
    assert all((out / "coco" / "images" / one["file_name"]).exists() for one in held.imgs.values())
    assert [one["name"] for one in held.cats.values()] == [*dict.fromkeys(kind for kind in ("dog", "car"))]
    for picture in held.imgs.values():
        own = masks_of(out, Path(picture["file_name"]).stem)
        annotated = held.imgToAnns[picture["id"]]
        assert len(annotated) == len(own)
        for one, mask in zip(annotated, own):
            np.testing.assert_array_equal(held.annToMask(one), mask)
            box = coco.maskUtils.toBbox(held.annToRLE(one)).tolist()
            assert one["area"] == mask.sum() == coco.maskUtils.area(held.annToRLE(one)) and one["bbox"] == box
    for name in ("coco", "yolo"):
        read = {Path(item.name).name: item for item in open_data(out / name).footage}
        assert [*read["street.JPG"].classes.values()] == ["car"] * len(masks_of(out, "street"))
    ended = run("evaluate", "clicks", out / "coco", "--no-baselines", "--smallest", "0", "--objects", "1", *TINY)
    assert ended.code == 0 and "COCO instances (coco)" in ended.err, ended.err
    shard = json.loads((out / "shards" / "00000.json").read_text())
    assert {one["file_name"] for one in shard["images"]} == {"street.JPG", "dog 2.png", "empty.png"}
    assert run(*words).code == 0
    ended = run("segment", photos / "empty.png", "-p", "5,5", "-o", out, "--write", "coco", *TINY)
    assert ended.code == 1 and "coco holds the labels of dog 2, too: --force replaces it" in ended.err
    (tmp_path / "mine" / "yolo").mkdir(parents=True)
    ended = run("segment", photos, "-p", "5,5", "-o", tmp_path / "mine", "--write", "yolo", *TINY)
    assert ended.code == 1 and "yolo is there, and this program did not write it: -o OTHER" in ended.err
    ended = run("segment", photos, "-p", "5,5", "--write", "cvat", *TINY)
    assert ended.code == 1 and "--write cvat holds videos, no images" in ended.err
    ended = run("segment", photos, "-p", "5,5", "--write", "cocoo", *TINY)
    assert ended.code == 2 and "did you mean 'coco'" in ended.err


def test_automatic_masks_are_labels_too(run, photos, tmp_path):
    words = ("--points", "2", "--iou", "0", "--stability", "0", "--write", "ids,labelstudio", *TINY)
    ended = run("automask", photos / "street.JPG", "-o", tmp_path / "out", *words)
    assert ended.code == 0, ended.err
    assert not (tmp_path / "out" / "street.automask.overlay.png").exists()
    (item,) = open_data(tmp_path / "out" / "labelstudio").footage
    own = json.loads((tmp_path / "out" / "street.automask.json").read_text())["masks"]
    assert len(item.objects(0)) == len([mask for mask in own if mask["area"]]) > 0


def test_a_geotiff_becomes_geojson_in_its_coordinates(run, tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="coordinates are an extra")
    values = np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8)
    place = rasterio.transform.from_origin(500_000, 4_600_000, 10, 10)
    about = {"driver": "GTiff", "height": 30, "width": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "field.tif", "w", crs="EPSG:32633", transform=place, **about) as raster:
        raster.write(values)
    Image.fromarray(values.transpose(1, 2, 0)).save(tmp_path / "plain.png")
    said = ("--object", "field:wheat", "-b", "4,4,30,25", "-o", tmp_path / "out", "--write", "geojson", *TINY)
    ended = run("segment", tmp_path / "field.tif", tmp_path / "plain.png", *said)
    assert ended.code == 0, ended.err
    assert "no coordinate system" in ended.err
    tree = json.loads((tmp_path / "out" / "geojson" / "field.geojson").read_text())
    assert tree["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    (feature,) = tree["features"]
    assert feature["properties"]["category"] == "wheat"
    (mask,) = masks_of(tmp_path / "out", "field")
    drawn = rasterio.features.rasterize([feature["geometry"]], out_shape=(30, 40), transform=place)
    np.testing.assert_array_equal(drawn > 0, mask)
    geopandas = pytest.importorskip("geopandas", reason="the reference is not installed")
    frame = geopandas.read_file(tmp_path / "out" / "geojson" / "field.geojson")
    assert frame.crs.to_epsg() == 32633 and frame.area.sum() == mask.sum() * 100
    assert "crs" not in json.loads((tmp_path / "out" / "geojson" / "plain.geojson").read_text())


def test_a_detector_says_what_there_is(run, photos, tmp_path):
    words = ("segment", photos, "--detector", "boxes", "--detect", f"file={tmp_path / 'boxes.json'}", *TINY)
    assert run(*words, "-o", tmp_path / "one").code == 0
    told = run("segment", photos, "--prompts", tmp_path / "boxes.json", "-o", tmp_path / "two", *TINY)
    assert told.code == 0
    for name in ("street", "dog 2", "empty"):
        first, second = (masks_of(tmp_path / out, name) for out in ("one", "two"))
        assert len(first) == len(second) and all((a == b).all() for a, b in zip(first, second))
    ended = run("segment", photos, "--detector", "boxs", *TINY)
    assert ended.code == 1 and "did you mean 'boxes'?" in ended.err
    ended = run(*words[:4], "--detect", "thresh=0.3", *TINY)
    assert ended.code == 1 and "did you mean 'threshold'?" in ended.err
