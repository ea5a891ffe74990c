"""`segment`: what is asked reaches the predictor, and what it answers reaches files, stdout and JSON."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from registry.errors import WeightsError
from sam2core.ops import rle

WIDTH, HEIGHT = 40, 30


class StandIn:
    """A predictor that answers with one rectangle per candidate and remembers what it was asked."""

    def __init__(self, name, task, *pairs, **arguments):
        self.name, self.task, self.pairs, self.arguments = name, task, pairs, arguments
        self.model = SimpleNamespace(image_size=(64, 96), spec=SimpleNamespace(name=name))

    def encode(self, image):
        self.image = image
        return self

    def predict(self, *, multimask_output=None, **prompt):
        self.prompt = prompt
        objects = len(prompt["box"]) if np.ndim(prompt.get("box")) == 2 else 1
        count = 3 if multimask_output else 1
        height, width = np.asarray(self.image).shape[:2]
        masks = torch.zeros(objects, count, height, width, dtype=torch.bool)
        for one in range(objects):
            for rank in range(count):
                masks[one, rank, 2 : 6 + rank, 3 : 9 + one] = True
        iou = torch.tensor([[0.5, 0.9, 0.7][:count]] * objects)
        return SimpleNamespace(masks=masks, iou=iou, logits=None)


@pytest.fixture
def predictor(monkeypatch):
    """The stand-in `registry.predictor` made last."""
    made = []

    def open_predictor(name, task="image", *pairs, **arguments):
        made.append(StandIn(name, task, *pairs, **arguments))
        return made[-1]

    monkeypatch.setattr("registry.predictor", open_predictor)
    return lambda: made[-1]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return path


def test_a_click_writes_mask_overlay_and_document(run, predictor, photo, tmp_path):
    out = tmp_path / "out"
    ended = run("segment", photo, "--point", "5,4", "--point", "30,20,0", "-o", out)
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in out.iterdir()) == ["photo.json", "photo.mask0.png", "photo.overlay.png"]
    mask = np.asarray(Image.open(out / "photo.mask0.png"))
    assert mask.shape == (HEIGHT, WIDTH) and set(np.unique(mask)) == {0, 255}
    document = json.loads((out / "photo.json").read_text())
    (found,) = document["masks"]
    assert found["area"] == 24 and found["bbox"] == [3, 2, 6, 4] and found["iou"] == 0.5
    np.testing.assert_array_equal(rle.decode(found["segmentation"]), mask > 0)
    assert document["prompt"] == {"points": [[5, 4], [30, 20]], "labels": [1, 0], "boxes": [], "mask": None}
    assert document["image"]["width"] == WIDTH and document["image"]["height"] == HEIGHT
    asked = predictor().prompt
    assert asked["points"].tolist() == [[5, 4], [30, 20]] and asked["labels"].tolist() == [1, 0] and "box" not in asked
    assert str(out / "photo.mask0.png") in ended.out and "iou 0.50" in ended.out
    assert Image.open(out / "photo.overlay.png").size == (WIDTH, HEIGHT)


def test_a_document_of_another_kind_is_not_replaced(run, predictor, photo, tmp_path):
    words = ("segment", photo, "--point", "5,4", "-o", tmp_path)
    assert run(*words).code == 0 and run(*words).code == 0  # its own is
    for other in ('{"image": {}, "annotations": []}', '{"format": "sam2core.automask.1", "masks": []}', "notes"):
        (tmp_path / "photo.json").write_text(other)
        ended = run(*words)
        assert ended.code == 1 and "photo.json is there, and segment did not write it: -o OTHER" in ended.err
        assert (tmp_path / "photo.json").read_text() == other
    assert run(*words[:-2], "--json").code == 0


def test_the_default_model_says_that_it_is_small(run, predictor, photo, tmp_path):
    ended = run("segment", photo, "--point", "5,4", "-o", tmp_path / "out")
    assert predictor().name == "sam2core_nano"
    assert "small" in ended.err and "--model sam2.1_hiera_l" in ended.err and "small" not in ended.out
    assert "small" not in run("segment", photo, "-p", "5,4", "-m", "test_tiny", "-o", tmp_path / "out").err
    assert run("segment", photo, "-p", "5,4", "-q", "-o", tmp_path / "out").err == ""


def test_several_candidates_come_best_first(run, predictor, photo, tmp_path):
    ended = run("segment", photo, "--point", "5,4", "--multimask", "-o", tmp_path)
    document = json.loads((tmp_path / "photo.json").read_text())
    assert [found["iou"] for found in document["masks"]] == [0.9, 0.7, 0.5]
    assert [found["area"] for found in document["masks"]] == [30, 36, 24]
    assert Image.open(tmp_path / "photo.overlay.png").size == (3 * WIDTH, HEIGHT)
    assert ended.out.count(".mask") == 3


def test_several_boxes_are_several_objects(run, predictor, photo):
    ended = run("segment", photo, "--box", "3,2,9,6", "-b", "3,2,10,6", "--json")
    assert predictor().prompt["box"].shape == (2, 4)
    assert [found["object"] for found in json.loads(ended.out)["masks"]] == [0, 1]
    run("segment", photo, "--box", "3,2,9,6", "--json")
    assert predictor().prompt["box"].tolist() == [3, 2, 9, 6]


def test_json_alone_writes_no_file(run, predictor, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ended = run("segment", photo, "--point", "5,4", "--json")
    assert json.loads(ended.out)["model"]["name"] == "sam2core_nano"
    assert sorted(tmp_path.rglob("*")) == before
    run("segment", photo, "--point", "5,4", "--json", "-o", "here")
    assert (tmp_path / "here" / "photo.mask0.png").exists()


def test_options_reach_the_registry(run, predictor, photo, tmp_path):
    ended = run(
        "segment",
        photo,
        "-p",
        "5,4",
        "-m",
        "test_tiny",
        "--weights",
        "none",
        "--device",
        "cpu",
        "--dtype",
        "bf16",
        "--image-size",
        "64x96",
        "--json",
        "memory_policy.frames=4",
        "predictors.image.mask_threshold=-0.5",
    )
    assert ended.code == 0, ended.err
    assert predictor().task == "image"
    assert predictor().pairs == ("memory_policy.frames=4", "predictors.image.mask_threshold=-0.5")
    assert predictor().arguments == {"weights": False, "device": "cpu", "dtype": "bfloat16", "image_size": (64, 96)}


def test_weights_that_are_not_here_are_fetched_first(run, predictor, photo, monkeypatch):
    asked = []

    def locate(spec, *, offline=None, progress=None):
        asked.append((spec.name, offline))
        if offline:
            raise WeightsError("not here")
        progress(10, 100)
        progress(100, 100)

    monkeypatch.setattr("registry.weights.locate", locate)
    ended = run("segment", photo, "-p", "5,4", "-m", "sam2.1_hiera_t", "--json")
    assert ended.code == 0 and asked == [("sam2.1_hiera_t", True), ("sam2.1_hiera_t", None)]
    assert "downloading sam2.1_hiera_t" in ended.err and "downloading" not in ended.out


def test_weights_that_cannot_be_had_are_exit_code_1(run, photo, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SAM2CORE_CACHE", str(tmp_path))
    monkeypatch.setattr("sam2core.checkpoints.hub._hub_cached", lambda source, folder, tried: (None, False))
    ended = run("segment", photo, "-p", "5,4", "-m", "sam2.1_hiera_t")
    assert ended.code == 1 and "sam2.1_hiera_tiny.pt" in ended.err and str(tmp_path) in ended.err
    assert "Traceback" not in ended.err and not ended.out


def test_threads_are_set(run, predictor, photo):
    before = torch.get_num_threads()
    try:
        run("segment", photo, "-p", "5,4", "--json", "--threads", "1", "-m", "test_tiny")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_mask_becomes_a_mask_input_at_low_resolution(run, predictor, photo, tmp_path):
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    inside[:, WIDTH // 2 :] = 255
    Image.fromarray(inside).save(tmp_path / "hint.png")
    assert run("segment", photo, "--mask", tmp_path / "hint.png", "--json").code == 0
    hint = predictor().prompt["mask_input"]
    assert hint.shape == (16, 24) and hint.dtype == np.float32
    assert hint[:, :11].max() == -10 and hint[:, 13:].min() == 10
    Image.fromarray(inside[:10]).save(tmp_path / "hint.png")
    ended = run("segment", photo, "--mask", tmp_path / "hint.png", "--json")
    assert ended.code == 1 and "40 x 10, the image 40 x 30" in ended.err


def test_stdin_is_read(run, predictor, photo, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(photo.read_bytes())))
    assert run("segment", "-", "-p", "5,4", "-o", tmp_path).code == 0
    assert (tmp_path / "stdin.mask0.png").exists()


def test_masks_lie_the_way_viewers_show_the_photograph(run, predictor, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright
    Image.open(photo).save(tmp_path / "turned.jpg", exif=exif)
    assert run("segment", tmp_path / "turned.jpg", "-p", "5,4", "-o", tmp_path).code == 0
    assert Image.open(tmp_path / "turned.mask0.png").size == (HEIGHT, WIDTH)
    assert np.asarray(predictor().image).shape[:2] == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_are_drawn_on(run, predictor, tmp_path, mode):
    grey = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    picture = (
        Image.fromarray((grey * 65535).astype(np.uint16))
        if mode == "I;16"
        else Image.fromarray((grey * 255).astype(np.uint8)).convert(mode)
    )
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    picture.save(path)
    assert run("segment", path, "-p", "5,4", "-o", tmp_path).code == 0
    drawn = np.asarray(Image.open(tmp_path / "photo.overlay.png"))
    assert drawn.shape == (HEIGHT, WIDTH, 3) and drawn[-1, -1].min() > 200


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "say what to segment"),
        (["--point", "5"], "X,Y[,0|1]"),
        (["--point", "5,4,2"], "1 (inside the object) or 0 (outside)"),
        (["--point", "nan,4"], "X,Y[,0|1]"),
        (["--box", "9,6,3,2"], "upper left corner comes first"),
        (["--box", "1,1,9,9", "--box", "1,1,5,5", "--point", "3,3"], "several boxes are several objects"),
        (["--point", "5,4", "--dtype", "int8"], "int8"),
        (["--point", "5,4", "--image-size", "big"], "not a size"),
        (["--point", "5,4", "frames"], "KEY=VALUE"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, predictor, photo, words, complaint):
    ended = run("segment", photo, *words)
    assert ended.code == 2 and complaint in ended.err and not ended.out and "Traceback" not in ended.err


def test_a_file_that_is_no_picture_is_exit_code_1(run, predictor, tmp_path):
    assert "no such file" in run("segment", tmp_path / "gone.jpg", "-p", "1,1").err
    (tmp_path / "text.jpg").write_text("not an image")
    ended = run("segment", tmp_path / "text.jpg", "-p", "1,1")
    assert ended.code == 1 and "is not an image of a kind that is read" in ended.err and "Traceback" not in ended.err
    assert ended.err.count("\n") == 1


def test_from_photograph_to_files_with_a_real_model(run, photo, tmp_path):
    ended = run(
        "segment", photo, "--point", "5,4", "--box", "2,2,20,20", "-m", "test_tiny", "--weights", "none", "-o", tmp_path
    )
    assert ended.code == 0, ended.err
    (found,) = json.loads((tmp_path / "photo.json").read_text())["masks"]
    mask = np.asarray(Image.open(tmp_path / "photo.mask0.png"))
    assert mask.shape == (HEIGHT, WIDTH) and found["area"] == (mask > 0).sum()
    np.testing.assert_array_equal(rle.decode(found["segmentation"]), mask > 0)
    assert (
        run(
            "segment", photo, "--mask", tmp_path / "photo.mask0.png", "-m", "test_tiny", "--weights", "none", "--json"
        ).code
        == 0
    )
    ended = run("segment", photo, "--point", "5,4", "-m", "test_tiny")
    assert ended.code == 1 and "test_tiny" in ended.err and "Traceback" not in ended.err
