"""Readers, packs and augmentation: what comes out is what lies on disk, and the same again for the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sam2core.data import panoptic
from sam2core.data.pictures import DataError
from sam2core.training.augment import Augment, Canvas, Mixture, choose_objects, paste_object, paste_shape
from sam2core.training.clips import (
    VOID,
    Clip,
    LabelledImage,
    Pack,
    collate,
    from_labels,
    label_folder,
    shrink,
)
from sam2core.training.readers import READERS


def write_folder(root, count: int = 4) -> None:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number in range(count):
        image = np.full((40, 60, 3), 10 * number, np.uint8)
        labels = np.zeros((40, 60), np.uint16)
        labels[5:15, 5:25] = 300
        labels[5:15, 40:55] = 300
        labels[20:35, 10:50] = 2
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")


def areas(sample: LabelledImage) -> list[int]:
    return sorted(int(np.isin(sample.regions, group).sum()) for group in sample.objects)


def test_classes_come_apart_into_pieces_and_instances_do_not(tmp_path):
    write_folder(tmp_path)
    sample = next(label_folder(tmp_path))
    # background, two pieces of 300, both together, 2
    assert areas(sample) == [150, 200, 350, 600, 1450]
    assert areas(next(label_folder(tmp_path, whole=True))) == [150, 200, 350, 600, 950, 1450]
    assert areas(next(label_folder(tmp_path, instances=True))) == [350, 600]


def test_the_split_holds_back_the_last(tmp_path):
    write_folder(tmp_path)
    assert [int(s.image[0, 0, 0]) for s in label_folder(tmp_path, holdout=1)] == [0, 10, 20]
    assert [int(s.image[0, 0, 0]) for s in label_folder(tmp_path, holdout=1, split="val")] == [30]


def test_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match="must hold the folders"):
        next(label_folder(tmp_path))
    write_folder(tmp_path)
    (tmp_path / "labels" / "2.png").unlink()
    with pytest.raises(DataError, match="the first is 2.png"):
        next(label_folder(tmp_path))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "labels" / "2.png")
    with pytest.raises(DataError, match=r"2.png is \(8, 8\)"):
        list(label_folder(tmp_path))
    (tmp_path / "images" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot read image .*0.png"):
        list(label_folder(tmp_path))
    with pytest.raises(DataError, match="no pack"):
        Pack(tmp_path)


def test_coco_panoptic(tmp_path):
    annotations = tmp_path / "panoptic_segmentation" / "annotations"
    (annotations / "panoptic_val2017").mkdir(parents=True)
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images" / "val2017" / "7.jpg")
    ids = np.zeros((40, 60, 3), np.uint8)
    ids[:20] = (1, 2, 0)  # 513, stuff in two pieces
    ids[:, 20:30] = 0
    ids[:, 20:30, 2] = 1  # 65536, a thing
    ids[30:, 40:] = (3, 0, 0)  # a crowd
    Image.fromarray(ids).save(annotations / "panoptic_val2017" / "7.png")
    with pytest.raises(DataError, match="no panoptic annotations"):
        next(READERS["coco_panoptic"](tmp_path))
    listing = {
        "categories": [{"id": 1, "isthing": 1}, {"id": 9, "isthing": 0}],
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "7.png",
                "segments_info": [
                    {"id": 513, "category_id": 9, "iscrowd": 0},
                    {"id": 65536, "category_id": 1, "iscrowd": 0},
                    {"id": 3, "category_id": 1, "iscrowd": 1},
                ],
            }
        ],
    }
    (annotations / "panoptic_val2017.json").write_text(json.dumps(listing))
    (sample,) = READERS["coco_panoptic"](tmp_path, split="val")
    assert areas(sample) == [400, 400, 600, 1000]
    assert [group for group, thing in zip(sample.objects, sample.things) if thing] == [(3,)]
    crowd = np.zeros((40, 60), bool)
    crowd[30:, 40:] = True
    assert ((sample.regions == VOID) == crowd).all(), "trained on neither as an object nor as background"
    (item,) = panoptic.read(tmp_path)
    assert (item.ignored(0) == crowd).all() and item.objects(0) == [513, 65536], "nor clicked on or scored"


def test_a_pack_gives_back_what_went_in(tmp_path):
    write_folder(tmp_path / "data")
    pack = Pack.write(tmp_path / "pack", label_folder(tmp_path / "data", whole=True), side=640)
    for packed, read in zip(pack, label_folder(tmp_path / "data", whole=True), strict=True):
        assert (packed.image == read.image).all() and (packed.regions == read.regions).all()
        assert packed.objects == read.objects and packed.things == read.things
    small = shrink(pack[0], 30)
    assert small.image.shape == (20, 30, 3) and small.regions.shape == (20, 30)
    assert np.isclose(np.array(areas(small)) * 4, areas(pack[0]), rtol=0.25).all()


def sources(count: int = 5) -> list[LabelledImage]:
    draw = np.random.default_rng(3)
    found = []
    for number in range(count):
        labels = np.zeros((90, 120), np.uint8)
        labels[10:60, 10:70] = 1
        labels[30:80, 60:110] = 2
        image = draw.integers(0, 255, (90, 120, 3)).astype(np.uint8)
        found.append(from_labels(image, labels, instances=True, source=str(number)))
    return found


def test_samples_depend_on_their_number_alone():
    mixture, other = (Mixture([sources()], [1.0], seed=4) for _ in range(2))
    other.sample(0, 0, size=64, objects=3)  # what was drawn before does not matter
    first, second = mixture.sample(2, 5, size=64, objects=3), other.sample(2, 5, size=64, objects=3)
    assert (first.frames == second.frames).all() and (first.masks == second.masks).all()
    assert first.frames.shape == (1, 64, 64, 3) and first.masks.shape == (1, 3, 64, 64)
    different = [mixture.sample(2, 6, size=64, objects=3), mixture.sample(3, 5, size=64, objects=3)]
    assert all((first.frames != clip.frames).any() for clip in different)


def test_objects_have_a_usable_size_and_repeat_when_there_are_few():
    mixture = Mixture([sources()], [1.0], augment=Augment(paste=1.0, shapes=1.0))
    for index in range(30):
        share = mixture.sample(0, index, size=64, objects=9, min_area=0.05).masks.mean((0, 2, 3))
        assert share.shape == (9,) and (share >= 0.05).all() and (share <= 0.8).all()


def test_no_usable_object_at_all_is_an_error():
    empty = from_labels(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), instances=True)
    with pytest.raises(RuntimeError, match="no crop with an object"):
        Mixture([[empty]], [1.0], augment=Augment(shapes=0.0)).sample(0, 0, size=32, objects=1)


def test_pasting_covers_what_was_there_and_adds_what_was_pasted():
    draw = np.random.default_rng(0)
    canvas = Canvas(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.int32), [(1,)])
    pasted = paste_object(canvas, sources()[0], 0, draw)
    assert (pasted.regions == 1).sum() < 64 * 64 and len(pasted.objects) == 2
    new = pasted.objects[1]
    assert np.isin(pasted.regions, new).sum() == (pasted.regions != 1).sum()
    assert pasted.image[pasted.regions != 1].mean() > 60 and not canvas.image.any()
    for _ in range(20):
        pasted = paste_shape(pasted, sources()[0].image, draw)
    every = choose_objects(pasted, 10, (0.0, 1.0), draw)
    assert every is not None and every.shape == (10, 64, 64)


def test_clips_of_different_size_are_no_batch():
    clips = [Clip(np.zeros((1, s, s, 3), np.uint8), np.zeros((1, 2, s, s), bool)) for s in (8, 8, 16)]
    batch = collate(clips[:2])
    assert batch.frames.shape == (2, 1, 3, 8, 8) and batch.masks.shape == (2, 1, 2, 8, 8) and batch.objects == 4
    with pytest.raises(ValueError, match="equal"):
        collate(clips)


def test_cut_outs_are_what_is_opaque(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    noise[..., 3] = 0
    noise[10:30, 20:50, 3] = 255
    (tmp_path / "a").mkdir()
    (tmp_path / "cartoon").mkdir()
    Image.fromarray(noise).save(tmp_path / "a" / "thing.png")
    Image.fromarray(noise).save(tmp_path / "cartoon" / "left_out.png")
    drawing = noise.copy()
    drawing[..., :3] = 7
    Image.fromarray(drawing).save(tmp_path / "drawing.png")
    (found,) = READERS["cut_outs"](tmp_path, skip=("cartoon",), smallest=32, colours=100)
    assert found.things == (True,) and found.source.endswith("thing.png")
    assert np.array_equal(found.regions == 1, noise[..., 3] == 255)
    with pytest.raises(DataError, match="holds no PNG"):
        next(READERS["cut_outs"](tmp_path / "a" / "none"))
