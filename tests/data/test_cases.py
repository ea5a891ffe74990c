"""Small inputs that people had and that were once read wrongly, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sam2core.data import coco, cvat, davis, labelstudio, yolo
from sam2core.data.formats import open_data
from sam2core.data.pictures import DataError
from sam2core.evaluation.clicks import samples_of
from sam2core.training.clips import label_folder
from tests.data import made

SQUARE = [10, 10, 40, 10, 40, 40, 10, 40]


def coco_of(root, images, annotations, *, bom: bool = False):
    root.mkdir(exist_ok=True)
    if not (root / "a.png").exists():
        Image.fromarray(made.picture()).save(root / "a.png")
    text = json.dumps({"images": images, "annotations": annotations})
    (root / "ann.json").write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return root


A = {"id": 1, "file_name": "a.png", "height": 96, "width": 128}
ONE = {"id": 1, "image_id": 1, "segmentation": [SQUARE]}


def test_masks_of_0_and_255_are_one_object(tmp_path):
    made.davis(tmp_path)
    for path in (tmp_path / "Annotations" / "clip").iterdir():
        Image.fromarray((np.array(Image.open(path)) > 0) * np.uint8(255)).save(path)
    (item,) = davis.read(tmp_path)
    assert item.objects(0) == [255] and item.ignored(0) is None and item.masks(0, [255]).sum() == (made.ids() > 0).sum()


def test_255_beside_lower_ids_is_not_counted(tmp_path):
    made.label_folder(tmp_path / "a", void=True)
    data = open_data(tmp_path / "a")
    assert data.footage[0].objects(0) == [1, 2] and data.footage[0].ignored(0).sum() == 160
    assert open_data(tmp_path / "a", ignore=None).footage[0].objects(0) == [1, 2, 255]
    assert [len(sample.masks) for sample in samples_of(data, background=False, smallest=0.0)] == [2, 2, 2]
    assert all(len(picture.objects) == 2 for picture in label_folder(tmp_path / "a", instances=True))


def test_255_among_ids_of_16_bits_is_one_of_them(tmp_path):
    made.label_folder(tmp_path / "a", 1)
    labels = made.ids().astype(np.uint16)
    labels[labels == 2] = 255
    Image.fromarray(labels).save(tmp_path / "a" / "labels" / "p0.png")
    assert open_data(tmp_path / "a").footage[0].objects(0) == [1, 255]


def test_frames_go_by_their_numbers(tmp_path):
    made.davis(tmp_path, 12)
    for folder in ("JPEGImages", "Annotations"):
        for path in (tmp_path / folder / "clip").iterdir():
            path.rename(path.with_name(f"frame{int(path.stem)}.png"))
    (item,) = davis.read(tmp_path)
    assert item.names == [f"frame{number}" for number in range(12)]
    assert all((item.read(t)[1] == (made.ids(t) == 1)).all() for t in (2, 10, 11))


def test_hidden_files_are_not_there(tmp_path):
    made.label_folder(tmp_path / "a")
    made.davis(tmp_path / "b")
    for path in [*tmp_path.rglob("*.png")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    (tmp_path / "b" / "Annotations" / "clip" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "b" / "JPEGImages" / ".DS_Store").write_bytes(b"x")
    assert len(open_data(tmp_path / "a").footage) == 3
    assert open_data(tmp_path / "b").footage[0].length == 3


@pytest.mark.parametrize("tag", range(1, 9))
def test_turned_pictures(tag, tmp_path):
    """A label as displayed is taken as it is, one of the stored image is turned, polygons too."""
    stored, shown = made.picture(), made.ids()
    exif = Image.Exif()
    exif[0x0112] = tag
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "p.png", exif=exif)
    turned = tag >= 5
    displayed = np.zeros((128, 96) if turned else (96, 128), np.uint8)
    displayed[10:50, 20:60] = 1
    Image.fromarray(displayed).save(tmp_path / "labels" / "p.png")
    (item,) = open_data(tmp_path).footage
    assert item.pictures([0])[0].shape[:2] == displayed.shape and (item.read(0)[1] == (displayed == 1)).all()
    if not turned:
        return
    Image.fromarray(shown).save(tmp_path / "labels" / "p.png")  # drawn on the stored image
    (item,) = open_data(tmp_path).footage
    red = (item.pictures([0])[0] == (220, 60, 60)).all(2)
    assert (red & item.read(0)[1]).sum() == (shown == 1).sum()
    Image.fromarray(np.ones((9, 9), np.uint8)).save(tmp_path / "labels" / "p.png")
    with pytest.raises(DataError, match=r"p.png is \(9, 9\), its image"):
        open_data(tmp_path).footage[0].read(0)
    square = [20, 10, 60, 10, 60, 50, 20, 50]
    for size, count in (((128, 96), 1600), ((96, 128), 1600), ((None, None), 1600)):
        entry = {"id": 1, "file_name": "images/p.png", "height": size[0], "width": size[1]}
        root = coco_of(tmp_path / "images" / "..", [entry], [{"image_id": 1, "segmentation": [square]}])
        (item,) = coco.read(root, images=".")
        mask = item.read(0)[1]
        assert mask.shape == (128, 96) and mask.sum() == count
        assert size == (96, 128) or mask[10:50, 20:60].all()


def test_coco_with_marks_texts_and_nulls(tmp_path):
    root = coco_of(tmp_path / "a", [A], [ONE], bom=True)
    assert coco.read(root)[0].read(0)[1].sum() == 900
    root = coco_of(root, [{"id": "1", "file_name": "a.png"}], [{**ONE, "image_id": 1}])
    assert coco.read(root)[0].read(0)[1].sum() == 900, "without sizes, ids as texts"
    for images, annotated, words in (
        ([A], None, "ann.json: 'annotations' is null"),
        (None, [ONE], "ann.json: 'images' is null, not a list"),
        ([{"id": 1}], [ONE], r"images\[0\] has no 'file_name'"),
        ([A], [{"segmentation": [SQUARE]}], r"annotations\[0\] has no 'image_id'"),
        ([A], [{"image_id": 1, "bbox": [1, 2, 3, 4]}], "no annotated image .*1 annotations without a mask"),
        ([A], [{"image_id": 1, "segmentation": [SQUARE[:-1]]}], r"annotations\[0\].*an even number of values, not 7"),
        ([{**A, "height": "tall"}], [ONE], "'height' and 'width' are 'tall' and 128"),
        ([{**A, "file_name": "../a.png"}], [ONE], "a.png"),
    ):
        with pytest.raises(DataError, match=words):
            coco.read(coco_of(root, images, annotated), annotations="ann.json")


def test_crowds_are_not_counted_and_flat_polygons_are(tmp_path):
    crowd = {"image_id": 1, "iscrowd": 1, "segmentation": [[30, 10, 60, 10, 60, 40, 30, 40]]}
    flat = {"image_id": 1, "segmentation": [[1, 1, 5, 5, 9, 9]]}
    (item,) = coco.read(coco_of(tmp_path / "a", [A], [ONE, crowd, flat]))
    assert item.objects(0) == [1] and item.ignored(0).sum() == 20 * 30
    assert "1 polygons without an inside" in item.notes[0]


def test_polygons_of_yolo_cvat_and_label_studio_are_filled_alike(tmp_path):
    wanted = np.zeros(made.SIZE, bool)
    wanted[10:40, 10:40] = True
    for name in ("yolo", "cvat", "ls"):
        (tmp_path / name / "images").mkdir(parents=True)
        Image.fromarray(made.picture()).save(tmp_path / name / "images" / "frame_000000.png")
    shares = [value / side for value, side in zip(SQUARE, [128, 96] * 4)]
    (tmp_path / "yolo" / "labels").mkdir()
    text = "0 " + " ".join(map(str, shares)) + "\n0 0.5 0.5 0.1 0.1\n"
    (tmp_path / "yolo" / "labels" / "frame_000000.txt").write_text(text)
    points = ";".join(f"{x},{y}" for x, y in zip(SQUARE[::2], SQUARE[1::2]))
    (tmp_path / "cvat" / "annotations.xml").write_text(
        "<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version><meta><task><original_size>"
        "<width>128</width><height>96</height></original_size></task></meta><track id='0' label='dog'>"
        f"<polygon frame='0' outside='0' points='{points}'/>"
        "<box frame='0' outside='0' xtl='1' ytl='1' xbr='2' ybr='2'/>"
        "</track></annotations>"
    )
    percent = [[100 * x, 100 * y] for x, y in zip(shares[::2], shares[1::2])]
    result = {"type": "polygonlabels", "original_width": 128, "original_height": 96, "image_rotation": 0}
    result["value"] = {"points": percent, "polygonlabels": ["dog"]}
    task = {"data": {"image": "/data/upload/1/0a1b2c-frame_000000.png"}, "annotations": [{"result": [result]}]}
    (tmp_path / "ls" / "export.json").write_text(json.dumps([task]))
    for read, name in ((yolo.read, "yolo"), (cvat.read, "cvat"), (labelstudio.read, "ls")):
        (item,) = read(tmp_path / name)
        assert (item.read(0)[1] == wanted).all(), name
        assert name == "ls" or "boxes" in " ".join(item.notes)


def test_an_empty_set_says_what_it_saw(tmp_path):
    made.davis(tmp_path)
    for path in (tmp_path / "Annotations" / "clip").iterdir():
        Image.fromarray(np.zeros(made.SIZE, np.uint8)).save(path)
    from sam2core.data.checking import check

    assert "no object at all; the labels' values are 0" in check(davis.read(tmp_path)).sentence()
