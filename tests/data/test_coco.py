"""One annotation of a mask, and the document they stand in, as pycocotools counts and reads them."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest

from sam2core.data.coco import Document, annotation
from sam2core.ops.polygons import extent


def masks() -> list[np.ndarray]:
    """A blob, one with a hole, two pieces that touch at a corner, noise, a pixel in the last corner, all, nothing."""
    blob, pieces, pixel = np.zeros((3, 12, 17), dtype=bool)
    blob[3:8, 4:11] = True
    holed = blob.copy()
    holed[5, 6] = False
    pieces[1:3, 1:3] = pieces[3:5, 3:6] = True
    pixel[-1, -1] = True
    noise = np.random.default_rng(0).random((12, 17)) > 0.6
    return [blob, holed, pieces, noise, pixel, np.ones_like(blob), np.zeros_like(blob)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("crowd", [False, True])
def test_an_annotation_is_what_pycocotools_counts(crowd):
    coco = pytest.importorskip("pycocotools.mask")
    for mask in masks():
        coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        said = annotation(mask, crowd=crowd)
        assert said["area"] == coco.area(coded) and said["bbox"] == coco.toBbox(coded).tolist()
        x0, y0, x1, y1 = extent(mask)
        assert mask[y0:y1, x0:x1].sum() == mask.sum() and said["iscrowd"] == crowd
        if isinstance(said["segmentation"], list):
            again = coco.merge(coco.frPyObjects(said["segmentation"], *mask.shape))
            assert (coco.decode(again) == mask).all() and not crowd
        else:
            assert said["segmentation"]["counts"].encode() == coded["counts"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pycocotools_loads_a_document(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    document = Document(["dog"])
    first = document.add_picture("a.jpg", (12, 17), date_captured="2026")
    second = document.add_picture("b/c.jpg", (12, 17))
    for picture, label in ((first, "cup"), (second, "cup"), (second, "dog")):
        document.add_mask(picture, masks()[0], label, score=0.5)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document.json()))
    with contextlib.redirect_stdout(io.StringIO()):
        held = coco.COCO(str(path))
    assert [one["name"] for one in held.loadCats(held.getCatIds())] == ["dog", "cup"]
    assert [one["file_name"] for one in held.loadImgs(held.getImgIds())] == ["a.jpg", "b/c.jpg"]
    own = held.loadAnns(held.getAnnIds(imgIds=second))
    assert [one["category_id"] for one in own] == [2, 1] and own[0]["score"] == 0.5
    assert (held.annToMask(own[0]) == masks()[0]).all()
