"""Many images in one run: which they are, what is done of each, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY = ("-m", "test_tiny", "--weights", "none", "--image-size", "64", "--threads", "1")


@pytest.fixture
def photos(tmp_path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for index in range(6):
        values = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(place / f"{index}.png")
    said = {f"{index}.png": [[2, 3, 20, 25], [10, 5, 38, 28]][: 1 + index % 2] for index in range(5)}
    (tmp_path / "boxes.json").write_text(json.dumps(said))
    return place


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_and_a_detectors_boxes(run, photos, tmp_path):
    words = ("segment", photos, "--prompts", tmp_path / "boxes.json", "-o", tmp_path / "out", *TINY)
    ended = run(*words, "--json")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert [one["masks"] for one in told["images"]] == [1, 2, 1, 2, 1, 0] and not told["failed"]
    assert "says nothing of 1 of 6 images" in ended.err
    document = json.loads((tmp_path / "out" / "1.json").read_text())
    assert [mask["object"] for mask in document["masks"]] == [0, 1] and document["masks"][1]["name"] == "2"
    assert (tmp_path / "out" / "1.mask1.png").exists() and not (tmp_path / "out" / "5.mask0.png").exists()
    (tmp_path / "out" / "3.mask0.png").unlink()  # no longer whole
    before = content(tmp_path / "out")
    ended = run(*words)
    assert ended.err.count("there already") == 5 and (tmp_path / "out" / "3.mask0.png").exists()
    assert before.items() <= content(tmp_path / "out").items()
    alone = run("segment", photos / "1.png", "-b", "2,3,20,25", "-b", "10,5,38,28", "-o", tmp_path / "alone", *TINY)
    assert alone.code == 0
    assert (tmp_path / "alone" / "1.mask0.png").read_bytes() == before["1.mask0.png"]


def test_files_patterns_lists_and_the_same_click_in_each(run, photos, tmp_path):
    (tmp_path / "other").mkdir()
    Image.open(photos / "1.png").save(tmp_path / "other" / "1.png")
    (photos / "list.csv").write_text("file,x0,y0,x1,y1\n4.png,2,3,20,25\n")
    out = tmp_path / "out"
    assert (
        run("segment", photos / "0.png", photos / "[12].png", "-p", "5,5", "-o", out, "--write", "palette", *TINY).code
        == 0
    )
    assert {path.name for path in out.iterdir()} == {f"{n}.{end}" for n in range(3) for end in ("json", "palette.png")}
    ended = run("segment", photos / "list.csv", "-o", tmp_path / "listed", *TINY)
    assert ended.code == 0 and (tmp_path / "listed" / "4.mask0.png").exists()
    ended = run("segment", photos / "1.png", tmp_path / "other" / "1.png", "-p", "5,5", "-o", tmp_path / "two", *TINY)
    assert ended.code == 0, ended.err
    assert {path.name for path in (tmp_path / "two").glob("*.json")} == {"photos_1.png.json", "other_1.png.json"}
    for words, complaint in (
        (("segment", photos / "gone*.png", "-p", "5,5"), "nothing matches"),
        (("segment", photos, "gone.png", "-p", "5,5"), "gone.png: no such file"),
        (("segment", photos, "-p", "5,5", "--prompts", tmp_path / "boxes.json"), "says what to segment"),
    ):
        ended = run(*words, *TINY)
        assert ended.code and complaint in ended.err, ended.err


def test_objects_have_names_and_classes(run, photos, tmp_path):
    said = ("--object", "ann:person", "-p", "5,5", "-p", "30,20,0", "--object", "bob:person", "-b", "10,5,38,28")
    assert run("segment", photos / "0.png", *said, "-o", tmp_path, *TINY).code == 0
    masks = json.loads((tmp_path / "0.json").read_text())["masks"]
    assert [(mask["name"], mask["category"]) for mask in masks] == [("ann", "person"), ("bob", "person")]


def test_a_picture_that_cannot_be_read_stops_no_other(run, photos, tmp_path):
    (photos / "2.png").write_text("no image")
    ended = run("segment", photos, "--prompts", tmp_path / "boxes.json", "-o", tmp_path / "out", "--json", *TINY)
    assert ended.code == 1 and "1 of 6 images could not be done" in ended.err
    told = json.loads(ended.out)
    assert told["failed"] == [str(photos / "2.png")] and "2.png" in told["reasons"][told["failed"][0]]
    assert len(told["images"]) == 5 and told["images_per_second"] > 0


def test_images_like_labelled_ones(run, photos, tmp_path, monkeypatch):
    from sam2core.predictors.image import RememberedResult

    seen = [True]
    monkeypatch.setattr(RememberedResult, "visible", property(lambda result: np.repeat(seen, len(result))))
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:20, 5:20], mask[10:28, 25:38] = 1, 7
    Image.fromarray(mask).save(tmp_path / "two.png")
    Image.fromarray((mask == 1).astype(np.uint8) * 255).save(tmp_path / "one.png")
    Image.fromarray(mask[:20]).save(tmp_path / "cut.png")
    like = ("--like", photos / "0.png", tmp_path / "two.png", "--like", photos / "1.png", tmp_path / "one.png")
    words = ("segment", photos / "2.png", photos / "3.png", "-o", tmp_path / "out", *TINY)
    ended = run(*words, *like, "--write", "masks")
    assert ended.code == 0, ended.err
    document = json.loads((tmp_path / "out" / "2.json").read_text())
    assert [one["name"] for one in document["masks"]] == ["1", "7"] and "object_score" in document["masks"][0]
    assert (tmp_path / "out" / "3.mask1.png").exists()
    assert run(*words, *like, "--write", "masks").err.count("there already") == 2
    seen[0] = False
    ended = run(*words, *like[:3], "--write", "masks,overlay")  # shown otherwise, so it is done again
    assert ended.code == 0 and "there already" not in ended.err
    assert not json.loads((tmp_path / "out" / "2.json").read_text())["masks"]
    for more, complaint in (
        (("--like", photos / "0.png", tmp_path / "cut.png"), "cut.png is 40 x 20, its image"),
        ((*like[:3], "-p", "5,5"), "--like says what to segment: nothing else does beside it"),
        ((*like[:3], "--multimask"), "--like finds one mask an object"),
        (("--like", photos / "0.png", photos / "gone.png"), "gone.png"),
    ):
        ended = run(*words, *more)
        assert ended.code and complaint in ended.err
