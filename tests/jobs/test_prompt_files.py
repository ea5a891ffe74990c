"""Prompts of many images: every kind of file says the same boxes of the same images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.jobs.frame_names import FrameNames
from sam2core.jobs.prompt_files import PromptFile

BOXES = {"a.jpg": [[2.0, 4.0, 12.0, 24.0], [20.0, 8.0, 36.0, 16.0]], "b.jpg": [[4.0, 3.0, 8.0, 27.0]]}
KINDS = {"a.jpg": ["cat", "dog"], "b.jpg": ["cat"]}
NUMBERS = {"cat": 3, "dog": 7}


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "photos" / name)
    return [tmp_path / "photos" / name for name in ("a.jpg", "b.jpg", "c.jpg")]


def every() -> list[tuple[str, list[float], str]]:
    return [(file, box, kind) for file, boxes in BOXES.items() for box, kind in zip(boxes, KINDS[file])]


def coco_box(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def ours(place: Path) -> Path:
    said = [{"file": file, "box": box, "category": kind} for file, box, kind in every()]
    return written(place / "prompts.json", {"prompts": said})


def by_picture(place: Path) -> Path:
    said = {file: [{"box": box, "category": kind} for name, box, kind in every() if name == file] for file in BOXES}
    return written(place / "boxes.json", said)


def coco(place: Path) -> Path:
    images = [{"id": number, "file_name": f"train/{name}"} for number, name in enumerate(BOXES, 5)]
    ids = {one["file_name"].rpartition("/")[2]: one["id"] for one in images}
    found = [
        {"image_id": ids[name], "category_id": NUMBERS[kind], "bbox": coco_box(box)} for name, box, kind in every()
    ]
    classes = [{"id": number, "name": name} for name, number in NUMBERS.items()]
    return written(place / "coco.json", {"images": images, "annotations": found, "categories": classes})


def csv(place: Path) -> Path:
    lines = ["filename,label,xmin,ymin,xmax,ymax,width"]
    lines += [",".join([file, kind, *map(str, box), "640"]) for file, box, kind in every()]
    path = place / "boxes.csv"
    path.write_text("\n".join(lines))
    return path


def corners(place: Path) -> Path:
    lines = ["image,x1,y1,x2,y2,class"]
    lines += [",".join([f"photos/{file}", *map(str, box), kind]) for file, box, kind in every()]
    path = place / "corners.csv"
    path.write_text("\n".join(lines))
    return path


def lines(place: Path) -> Path:
    path = place / "boxes.jsonl"
    path.write_text("\n".join(json.dumps({"file": file, "box": box, "class": kind}) for file, box, kind in every()))
    return path


def yolo(place: Path) -> Path:
    (place / "labels").mkdir()
    (place / "labels" / "classes.txt").write_text("cat\ndog\n")
    for name, boxes in BOXES.items():
        rows = []
        for kind, (x0, y0, x1, y1) in zip(KINDS[name], boxes):
            shares = ((x0 + x1) / 80, (y0 + y1) / 60, (x1 - x0) / 40, (y1 - y0) / 30)
            rows.append(" ".join([str(["cat", "dog"].index(kind)), *map(str, shares), "0.9"]))
        (place / "labels" / f"{Path(name).stem}.txt").write_text("\n".join(rows))
    return place / "labels"


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("make", [ours, by_picture, coco, csv, corners, lines, yolo])
def test_every_kind_says_the_same(make, pictures, tmp_path):
    told = PromptFile(make(tmp_path))
    found = told.of_all(pictures, still=True)
    for path in pictures[:2]:
        prompts = list(found[path].values())
        np.testing.assert_allclose([one.box for one in prompts], BOXES[path.name], atol=1e-4)
        assert [one.category for one in prompts] == KINDS[path.name]
        assert [one.object for one in prompts] == [str(number) for number in range(1, len(prompts) + 1)]
    assert not found[pictures[2]] and told.strangers(pictures) == 0 and told.strangers(pictures[1:]) == 1


def test_a_detectors_results_name_pictures_by_their_ids(pictures, tmp_path):
    said = [{"image_id": "a", "category_id": 1, "bbox": [2, 4, 10, 20], "score": 0.5}]
    (one,) = PromptFile(written(tmp_path / "predictions.json", said)).of_all(pictures, still=True)[pictures[0]].values()
    assert one.box == [2, 4, 12, 24] and one.score == 0.5 and one.category == "1"


def test_a_list_names_pictures_and_may_say_clicks(pictures, tmp_path):
    path = tmp_path / "photos" / "list.csv"
    path.write_text("file,x,y,point_label\na.jpg,3,4,\nb.jpg,,,\na.jpg,9,8,0\n")
    told = PromptFile(path)
    assert [place.name for place in told.places()] == ["a.jpg", "b.jpg"] and told.places()[0] == pictures[0]
    found = told.of_all(told.places(), still=True)
    assert [one.points for one in found[pictures[0]].values()] == [[[3.0, 4.0]], [[9.0, 8.0]]]
    assert not found[pictures[1]]


def test_clips_have_frames_and_objects(tmp_path):
    path = tmp_path / "clips.jsonl"
    rows = [
        {"file": "x.mp4", "object": "dog", "frame": 3, "box": [1, 2, 3, 4]},
        {"file": "y.mp4", "box": [5, 6, 7, 8]},
        {"file": "y.mp4", "box": [1, 6, 7, 8]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = PromptFile(path).of_all([tmp_path / "x.mp4", tmp_path / "y.mp4"]).values()
    assert list(first) == [("dog", 3)] and list(second) == [("1", 0), ("2", 0)]


@pytest.mark.parametrize(
    "name, text, complaint",
    [
        (
            "p.json",
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "bbox": []}]}',
            "none of",
        ),
        ("p.json", '{"images": [{"id": 1}], "annotations": []}', "images[0] has no 'file_name'"),
        ("p.json", '{"a.jpg": [[1, 2, 3]]}', "a.jpg[0]: a box is [x0, y0, x1, y1]"),
        ("p.json", '{"prompts": [{"file": 3, "box": [1, 2, 3, 4]}]}', "a file's name is a text, not 3"),
        ("p.csv", "name,x0\na.jpg,1\n", "no column that names a file"),
        ("p.csv", "file,x0,y0,x1,y1\na.jpg,1,2,3\n", "line 2 has not the 5 cells"),
        ("p.csv", "file,x0,y0,x1\na.jpg,1,2,3\n", "line 2 has 3 of a box's four sides"),
        ("p.csv", "file,x0,y0,x1,y1\na.jpg,1,2,3,four\n", "y1 is 'four', no number"),
        ("p.jsonl", '{"file": "a.jpg", "boxx": [1, 2, 3, 4]}\n{"file": "a.jpg", "box": 5}', "line 2: a box is"),
        ("p.json", '{"z.jpg": [[1, 2, 3, 4]]}', "speaks of 'z.jpg' and others, and none of them is"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(name, text, complaint, pictures, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as told:
        PromptFile(tmp_path / name).of_all(pictures, still=True)
    assert complaint in str(told.value) and name in str(told.value)


def test_a_name_that_two_pictures_have_is_asked_for(pictures, tmp_path):
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "a.jpg"
    twin.write_bytes(pictures[0].read_bytes())
    with pytest.raises(ValueError, match="'a.jpg' is .* and .*: say more of its path"):
        PromptFile(ours(tmp_path)).of_all([*pictures, twin], still=True)
    assert len(PromptFile(corners(tmp_path)).of_all([*pictures, twin], still=True)[pictures[0]]) == 2


def test_names_of_frames_are_those_of_labelling_tools(tmp_path):
    still = Image.new("RGB", (40, 20))
    for name in ("clip.gif", "other.gif"):
        still.save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (40, 20), "red")])
    (tmp_path / "shots").mkdir()
    for number in (7, 9, 10):
        still.save(tmp_path / "shots" / f"IMG_{number}.png")
    clip, other, shots = (tmp_path / name for name in ("clip.gif", "other.gif", "shots"))
    alone, among = FrameNames([clip, tmp_path / "photo.jpg"]), FrameNames([clip, other, shots])
    for name, frame in (("000012.jpg", 12), ("frame_000001.PNG", 1), ("images/train/3.png", 3), ("a.b/00004", 4)):
        assert alone.find(name) == (clip, frame) and among.find(name) is None
    for name in ("clip/000001.jpg", "clip_00001", "clip.gif#1", "x/clip.gif/frame_1.png", "clip\\frame_000001.jpg"):
        assert alone.find(name) == among.find(name) == (clip, 1)
    assert among.find("shots/IMG_9.png") == among.find("shots_IMG_9") == (shots, 1)  # a file's name, not its number
    assert FrameNames([shots]).find("IMG_10.jpg") == (shots, 2) and FrameNames([shots]).find("frame_1.jpg") is None
    assert alone.find("photo.jpg") is None


def test_coco_and_yolo_of_a_videos_frames(tmp_path):
    Image.new("RGB", (40, 20)).save(
        tmp_path / "clip.gif",
        save_all=True,
        append_images=[Image.new("RGB", (40, 20), each) for each in ("red", "blue")],
    )
    boxes = [(1, 0, {"track_id": 7}), (2, 0, {}), (2, 2, {"track_id": 7})]
    tree = {
        "images": [{"id": 1 + number, "file_name": f"frame_{number:06d}.jpg"} for number in range(3)],
        "annotations": [
            {"id": at, "image_id": 1 + frame, "category_id": 1, "bbox": [x, 2, 10, 12], "attributes": more}
            for at, (x, frame, more) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    found = PromptFile(tmp_path / "coco.json").prompts(tmp_path / "clip.gif")
    assert list(found) == [("7", 0), ("2", 0), ("7", 2)] and found["7", 2].box == [2, 2, 12, 14]
    assert set(found.categories.values()) == {"cat"}
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "000001.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (one,) = PromptFile(tmp_path / "labels").prompts(tmp_path / "clip.gif").values()
    assert (one.frame, one.box) == (1, [10, 5, 30, 15])
    (tmp_path / "labels" / "000001.txt").rename(tmp_path / "labels" / "cat.txt")
    with pytest.raises(ValueError, match="speaks of 'cat' and others, and none of them is .*clip.gif or a frame of it"):
        PromptFile(tmp_path / "labels").prompts(tmp_path / "clip.gif")
