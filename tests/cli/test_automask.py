"""`automask`: pictures, folders that go on, errors, tiles; with the smallest model, so what it finds means nothing."""

import json

import numpy as np
import pytest
from PIL import Image

from sam2core.ops import rle

WORDS = (
    "-m",
    "test_tiny",
    "--weights",
    "none",
    "--points",
    "2",
    "--iou",
    "0",
    "--stability",
    "0",
    "--image-size",
    "64",
)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for index, name in enumerate(("a.png", "b.jpg", "b.png")):
        values = np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(values).save(place / name)
    return place


def test_a_picture(run, folder, tmp_path):
    answer = run("automask", folder / "a.png", "-o", tmp_path / "out", "--json", *WORDS)
    assert answer.code == 0
    (told,) = json.loads(answer.out)["pictures"]
    document = json.loads((tmp_path / "out" / "a.json").read_text())
    assert told["masks"] == len(document["masks"]) > 0 and document["image"]["width"] == 60
    ids = np.asarray(Image.open(tmp_path / "out" / "a.ids.png"))
    assert ids.shape == (40, 60) and set(np.unique(ids)) <= {0, *(mask["id"] for mask in document["masks"])}
    mask = document["masks"][0]
    assert rle.decode(mask["segmentation"]).sum() == mask["area"]
    assert Image.open(tmp_path / "out" / "a.overlay.png").size == (60, 40)


def test_a_folder_goes_on_where_it_was_and_a_bad_picture_stops_nothing(run, folder, tmp_path):
    (folder / "c.png").write_text("no picture")
    out = tmp_path / "out"
    answer = run("automask", folder, "-o", out, *WORDS)
    assert answer.code == 1 and "c.png" in answer.err and "1 of 4" in answer.err
    assert {file.name for file in out.glob("*.json")} == {"a.json", "b.jpg.json", "b.png.json"}
    (out / "a.json").unlink()
    before = (out / "b.png.json").stat().st_mtime_ns
    answer = run("automask", folder, "-o", out, *WORDS)
    assert (out / "a.json").exists() and (out / "b.png.json").stat().st_mtime_ns == before
    assert answer.err.count("there already") == 2
    run("automask", folder, "-o", out, *WORDS, "--nms", "0.5")  # other options: made again
    assert (out / "b.png.json").stat().st_mtime_ns != before


def test_tiles(run, folder, tmp_path):
    np.save(folder / "large.npy", np.random.default_rng(0).integers(0, 256, (90, 150), dtype=np.uint8))
    answer = run("automask", folder / "large.npy", "-o", tmp_path / "out", "--tile", "64", *WORDS)
    document = json.loads((tmp_path / "out" / "large.json").read_text())
    assert answer.code == 0 and document["masks"] and document["image"]["height"] == 90


def test_a_video(run, tmp_path):
    pytest.importorskip("av", reason="videos are an extra")
    from sam2core.predictors.render import VideoWriter

    with VideoWriter(tmp_path / "clip.mp4", (40, 60)) as film:
        for index in range(3):
            film.write(np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    words = ("automask", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--every", "2", "--max-objects", "2", *WORDS)
    assert run(*words).code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "masks.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2] and lines[-1]["objects"]
    assert (tmp_path / "out" / "overlay.mp4").exists() and len(list((tmp_path / "out" / "palette").glob("*.png"))) == 3
    assert run(*words).code == 1


def test_what_is_not_there(run, tmp_path):
    assert "no such file" in run("automask", tmp_path / "a.png").err
    assert "holds no picture" in run("automask", tmp_path, *WORDS).err
