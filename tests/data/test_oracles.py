"""What we write, the formats' own libraries read; skipped where they are not installed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sam2core.data.converting import convert
from sam2core.data.formats import open_data
from tests.data import made


@pytest.fixture
def data(tmp_path):
    return open_data(made.label_folder(tmp_path / "a"))


def iou(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pycocotools_reads_coco(data, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    convert(data, tmp_path / "b", "coco")
    held = coco.COCO(str(tmp_path / "b" / "annotations.json"))
    for picture in held.loadImgs(held.getImgIds()):
        labels = made.ids(int(picture["file_name"][1]))
        own = held.loadAnns(held.getAnnIds(imgIds=picture["id"]))
        assert [(held.annToMask(one).astype(bool) == (labels == value)).all() for one, value in zip(own, (1, 2))] == [
            True,
            True,
        ]
        assert [one["area"] for one in own] == [int((labels == value).sum()) for value in (1, 2)]


def test_supervision_reads_yolo_and_coco(data, tmp_path):
    supervision = pytest.importorskip("supervision")
    convert(data, tmp_path / "b", "yolo")
    found = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "b/images/train"),
        annotations_directory_path=str(tmp_path / "b/labels/train"),
        data_yaml_path=str(tmp_path / "b/data.yaml"),
        force_masks=True,
    )
    for path, _, detections in found:
        labels = made.ids(int(path[-5]))
        # it draws with OpenCV, which counts the edges in, half a pixel more on all sides: 0.937 here
        assert [iou(mask, labels == value) > 0.93 for mask, value in zip(detections.mask, (1, 2))] == [True, True]


def test_pycocotools_fills_what_yolo_says_to_the_pixel(data, tmp_path):
    """The rings that supervision draws too large are right."""
    coco = pytest.importorskip("pycocotools.mask")
    convert(data, tmp_path / "b", "yolo")
    for number in range(3):
        lines = (tmp_path / f"b/labels/train/p{number}.txt").read_text().splitlines()
        for line, value in zip(lines, (1, 2), strict=True):
            ring = np.array(line.split()[1:], float).reshape(-1, 2) * made.SIZE[::-1]
            filled = coco.decode(coco.merge(coco.frPyObjects([ring.ravel().tolist()], *made.SIZE)))
            assert (filled.astype(bool) == (made.ids(number) == value)).all()


def test_datumaro_reads_voc(data, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    convert(data, tmp_path / "b", "voc")
    names = tmp_path / "b" / "ImageSets" / "Segmentation"
    names.mkdir(parents=True)
    (names / "train.txt").write_text("p0\np1\np2\n")
    found = datumaro.Dataset.import_from(str(tmp_path / "b"), "voc_segmentation")
    assert len(found) == 3
    for item in found:
        labels = made.ids(int(item.id[1]))
        masks = [each.image.astype(bool) for each in item.annotations if each.type.name == "mask"]
        assert {int(mask.sum()) for mask in masks} == {int((labels == value).sum()) for value in (1, 2)}


def test_nibabel_and_tifffile_read_volumes_and_stacks(tmp_path):
    nibabel, tifffile = pytest.importorskip("nibabel"), pytest.importorskip("tifffile")
    data = open_data(made.davis(tmp_path / "a"))
    convert(data, tmp_path / "b", "nifti")
    values = np.asarray(nibabel.load(tmp_path / "b/labels/clip.nii.gz").dataobj)
    assert values.shape == (made.SIZE[1], made.SIZE[0], 3) and (values[..., 2].T[::-1] == made.ids(2)).all()
    convert(data, tmp_path / "c", "tiff_stack")
    assert (tifffile.imread(tmp_path / "c/labels/clip.tif")[1] == made.ids(1)).all()


def test_label_studios_own_coder_reads_brush_regions(data, tmp_path):
    brush = pytest.importorskip("sam2core_labelstudio.brush")
    convert(data, tmp_path / "b", "labelstudio")
    (task, *_) = json.loads((tmp_path / "b" / "export.json").read_text())
    for result, value in zip(task["annotations"][0]["result"], (1, 2)):
        assert (brush.decode(result["value"]["rle"], made.SIZE) == (made.ids(0) == value)).all()
