"""`sam2core evaluate`: videos run and scored, what is missing, runs that go on; clicks on images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (48, 64)


@pytest.fixture
def mose(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for video in ("a", "b"):
        for frame in range(4):
            for folder in (root / "JPEGImages" / video, root / "Annotations" / video):
                folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(frame).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "JPEGImages" / video / f"{frame:05d}.jpg")
            ids = np.zeros(SIZE, np.uint8)
            ids[5:25, 5 + frame : 30 + frame] = 1
            Image.fromarray(ids).save(root / "Annotations" / video / f"{frame:05d}.png")
    return root


TINY = ("--model", "test_tiny", "--weights", "none", "--device", "cpu", "--threads", 1)


def test_videos_are_run_and_scored(run, mose, tmp_path):
    out = tmp_path / "out"
    done = run("evaluate", "vos", mose, "-o", out, *TINY)
    assert done.code == 0, done.err
    assert "Protocol `davis`, 2 videos, 2 objects" in done.out and "| a | 1 |" in done.out
    document = json.loads((out / "scores.json").read_text())
    assert 0 <= document["overall"]["J&F-Mean"] <= 1 and len(document["objects"]) == 2
    assert [row["video"] for row in csv.DictReader((out / "scores.csv").open())] == ["a", "b"]
    assert (out / "scores.md").read_text() == done.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert list(manifest["done"]) == ["a", "b"] and manifest["done"]["a"]["frames"] == 4
    assert manifest["made_by"]["task"] == {"prompt": "mask", "later": False, "merged": False}
    assert len(manifest["made_by"]["fingerprint"]) == 64

    again = run("evaluate", "score", mose, out, "-o", tmp_path / "again")
    assert again.code == 0 and again.out == done.out
    assert json.loads((tmp_path / "again" / "scores.json").read_text()) == document


def test_a_run_is_never_mixed_with_another(run, mose, tmp_path):
    out = tmp_path / "out"
    assert run("evaluate", "vos", mose, "-o", out, "--no-score", *TINY).code == 0
    again = run("evaluate", "vos", mose, "-o", out, *TINY)
    assert again.code == 1 and "holds the masks of a run already" in again.err
    other = run("evaluate", "vos", mose, "-o", out, "--resume", "--prompt", "box", *TINY)
    assert other.code == 1 and "of another run: " in other.err and "'prompt': 'box'" in other.err


def test_what_is_missing_is_listed_and_the_code_is_2(run, mose, tmp_path):
    out = tmp_path / "answers"
    shutil.copytree(mose / "Annotations", out)
    perfect = run("evaluate", "score", mose / "Annotations", out)
    assert perfect.code == 0 and "| **100.0** |" in perfect.out
    (out / "b" / "00002.png").unlink()
    half = run("evaluate", "score", mose, out)
    assert half.code == 2 and half.out == ""
    assert "1 answers are missing" in half.err and "b: 1 of 2 frames, the first is 00002.png" in half.err
    assert run("evaluate", "score", mose, out, "--video", "a").code == 0


def test_first_masks_alone_are_not_scored(run, mose, tmp_path):
    for mask in (mose / "Annotations").rglob("*.png"):
        if mask.stem != "00000":
            mask.unlink()
    done = run("evaluate", "vos", mose, "-o", tmp_path / "out", "--prompt", "click", *TINY)
    assert done.code == 0 and done.out == "" and "not scored" in done.err
    assert len(list((tmp_path / "out" / "b").iterdir())) == 4


def test_unknown_engines_are_answered(run, mose, tmp_path):
    done = run("evaluate", "vos", mose, "-o", tmp_path / "out", "--engine", "locl", *TINY)
    assert done.code == 1 and "no engine is called 'locl'" in done.err and "did you mean 'local'" in done.err
    (tmp_path / "bare" / "x").mkdir(parents=True)
    done = run("evaluate", "vos", tmp_path / "bare", "-o", tmp_path / "out", *TINY)
    assert done.code == 1 and "is in none of the formats that are read" in done.err


def test_clicks_beside_baselines(run, tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
        labels = np.zeros(SIZE, np.uint8)
        labels[10:35, 12:40] = 1
        pixels[labels == 1] += 120
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
    done = run("evaluate", "clicks", tmp_path, "--foreground", "--clicks", 3, *TINY)
    assert done.code == 0, done.err
    head, names, *rows = done.out.splitlines()
    assert head == "2 images, 2 objects; mean IoU after clicks"
    assert names.split() == ["@1", "@2", "@3", "NoC80", "NoC90", "s/click"]
    assert [row.split()[0] for row in rows] == ["test_tiny", "disc", "flood"]
    done = run("evaluate", "clicks", tmp_path, "--foreground", "--no-baselines", "--json", "--objects", 1, *TINY)
    found = json.loads(done.out)
    assert list(found) == ["test_tiny"] and list(found["test_tiny"]) == ["0.png", "1.png"]
    words = ("--foreground", "--no-baselines", "--json", "--objects", 1, "--workers", 2)
    assert json.loads(run("evaluate", "clicks", tmp_path, *words, *TINY).out) == found
    done = run("evaluate", "clicks", tmp_path, "--foreground", "--smallest", 0.5, *TINY)
    assert done.code == 1 and "no region of 50 to 60 % of its image; --smallest" in done.err
