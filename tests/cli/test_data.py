"""`sam2core data`, and `--format` wherever data are read."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.data import made

TINY = ("--model", "test_tiny", "--weights", "none")


@pytest.fixture
def coco(run, tmp_path):
    made.label_folder(tmp_path / "a")
    done = run("data", "convert", tmp_path / "a", tmp_path / "coco", "--to", "coco")
    assert done.code == 0 and done.out.strip() == str(tmp_path / "coco") and "label folder (label_folder)" in done.err
    return tmp_path / "coco"


def test_check_says_what_there_is_and_draws_it(run, coco, tmp_path):
    done = run("data", "check", coco, "-o", tmp_path / "sheet.png")
    assert done.code == 0 and "COCO instances (coco), 3 images" in done.err
    assert "3 images, 6 objects of" in done.out and "128x96 (3)" in done.out and "classes: object (6)" in done.out
    assert Image.open(tmp_path / "sheet.png").size == (6 * 192, 4 * 192)


def test_check_names_what_cannot_be_used(run, coco):
    (coco / "images" / "p1.png").write_bytes(b"no picture")
    done = run("data", "check", coco)
    assert done.code == 1 and "cannot be used: cannot read image" in done.out and "p1.png" in done.out
    done = run("data", "check", coco, "--format", "coc")
    assert done.code == 1 and "did you mean 'coco'" in done.err
    done = run("data", "check", coco, "--option", "annotation=x")
    assert done.code == 1 and "it has annotations, images, crowds" in done.err


def test_the_sample_is_a_label_folder(run, tmp_path):
    done = run("data", "sample", tmp_path / "nuclei")
    assert done.code == 0 and len(list((tmp_path / "nuclei" / "images").iterdir())) == 20
    done = run("data", "check", tmp_path / "nuclei")
    assert done.code == 0 and "20 images," in done.out and "0 without any" in done.out
    done = run("data", "sample", tmp_path / "nuclei")
    assert done.code == 1 and "there already and not empty" in done.err


def test_train_check_takes_a_format(run, coco, tmp_path):
    for name in ("coco", "auto"):
        done = run("train", "check", "--data", coco, "--format", name, "-o", tmp_path / "s.png", "stages.0.size=64")
        assert done.code == 0 and "3 images, 6 objects" in done.out
    done = run("train", "check", "--data", coco, "-o", tmp_path / "s.png")
    assert done.code == 1 and "must hold the folders images/ and labels/" in done.out
    assert "it looks like coco: say --format coco" in done.out


def test_clicks_and_vos_take_a_format(run, coco, tmp_path):
    document = json.loads((coco / "annotations.json").read_text())
    assert len(document["images"]) == 3
    done = run("evaluate", "clicks", coco, "--format", "coco", "--no-baselines", *TINY)
    assert done.code in (0, 1) and "COCO instances (coco)" in done.err
    done = run("evaluate", "vos", coco, "-o", tmp_path / "out", *TINY)
    assert done.code == 1 and "images, no videos" in done.err
