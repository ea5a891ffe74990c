"""`automask`: images, folders that go on, errors, tiles; with the smallest model, so what it finds means nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from sam2core.checkpoints import files
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
    (told,) = json.loads(answer.out)["images"]
    document = json.loads((tmp_path / "out" / "a.automask.json").read_text())
    assert told["masks"] == len(document["masks"]) > 0 and document["image"]["width"] == 60
    ids = np.asarray(Image.open(tmp_path / "out" / "a.automask.ids.png"))
    assert ids.shape == (40, 60) and set(np.unique(ids)) <= {0, *(mask["id"] for mask in document["masks"])}
    mask = document["masks"][0]
    assert rle.decode(mask["segmentation"]).sum() == mask["area"]
    assert Image.open(tmp_path / "out" / "a.automask.overlay.png").size == (60, 40)


def test_a_folder_goes_on_where_it_was_and_a_bad_picture_stops_nothing(run, folder, tmp_path):
    (folder / "c.png").write_text("no image")
    out = tmp_path / "out"
    answer = run("automask", folder, "-o", out, *WORDS)
    assert answer.code == 1 and "c.png" in answer.err and "1 of 4" in answer.err
    assert {file.name for file in out.glob("*.json")} == {
        "a.automask.json",
        "b.jpg.automask.json",
        "b.png.automask.json",
    }
    (out / "a.automask.json").unlink()
    before = (out / "b.png.automask.json").stat().st_mtime_ns
    answer = run("automask", folder, "-o", out, *WORDS)
    assert (out / "a.automask.json").exists() and (out / "b.png.automask.json").stat().st_mtime_ns == before
    assert answer.err.count("there already") == 2
    run("automask", folder, "-o", out, *WORDS, "--nms", "0.5")  # other options: made again
    assert (out / "b.png.automask.json").stat().st_mtime_ns != before


def test_what_is_done_is_done_for_that_picture_and_those_weights_alone(run, folder, tmp_path):
    out, weights = tmp_path / "out", tmp_path / "w.safetensors"
    words = ("automask", folder / "a.png", "-o", out, *WORDS[:2], "--weights", weights, *WORDS[4:])

    def write_weights(seed):
        torch.manual_seed(seed)
        files.write(weights, registry.build("test_tiny", weights=False).state_dict(), force=True)

    write_weights(0)
    assert run(*words).code == 0
    shutil.move(folder, tmp_path / "moved")
    words = (words[0], tmp_path / "moved" / "a.png", *words[2:])
    assert "there already" in run(*words).err  # the folder's place is no part of it
    write_weights(1)
    assert "there already" not in run(*words).err
    shutil.copy(tmp_path / "moved" / "b.png", tmp_path / "moved" / "a.png")
    assert "there already" not in run(*words).err and "there already" in run(*words).err
    document = json.loads((out / "a.automask.json").read_text())
    del document["image"]["sha256"]  # as earlier versions wrote it
    (out / "a.automask.json").write_text(json.dumps(document))
    assert "there already" not in run(*words).err
    (tmp_path / "other").mkdir()
    before = (out / "a.automask.json").read_bytes()
    shutil.copy(tmp_path / "moved" / "b.jpg", tmp_path / "other" / "a.png")
    words = (words[0], tmp_path / "other" / "a.png", *words[2:])
    ended = run(*words)
    assert (
        ended.code == 1
        and "a.automask.json holds the masks of" in ended.err
        and (out / "a.automask.json").read_bytes() == before
    )
    assert run(*words, "--force").code == 0 and (out / "a.automask.json").read_bytes() != before


def test_results_have_distinct_names(run, folder, tmp_path):
    shutil.copy(folder / "a.png", folder / "b.jpg.png")
    assert run("automask", folder, "-o", tmp_path / "out", *WORDS).code == 0
    found = {file.name for file in (tmp_path / "out").glob("*.json")}
    assert found == {"a.automask.json", "b.jpg.automask.json", "b.png.automask.json", "b.jpg.png.automask.json"}


def test_a_folder_of_ones_own_keeps_its_documents_and_pictures(run, folder):
    before = {file: file.read_bytes() for file in folder.iterdir()}
    (folder / "b.png.automask.json").write_text('{"image": {}, "annotations": []}')
    for force in ((), ("--force",)):
        ended = run("automask", folder, "-o", folder, *WORDS, *force)
        assert ended.code == 1 and "b.png.automask.json is there, and automask did not write it: -o OTHER" in ended.err
    (folder / "b.png.automask.json").unlink()
    shutil.copy(folder / "a.png", folder / "a.automask.ids.png")
    ended = run("automask", folder, "-o", folder, *WORDS)
    assert ended.code == 1 and "would replace the image" in ended.err
    (folder / "a.automask.ids.png").unlink()
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert run("automask", folder, "-o", folder, *WORDS).code == 0
    again = json.loads(run("automask", folder, "-o", folder, "--json", *WORDS).out)  # not of its own drawings
    assert [Path(one["path"]).name for one in again["images"]] == ["a.png", "b.jpg", "b.png"]
    (folder / "a.automask.json").rename(folder / "a.automask.json.part")  # stopped before the document had its name
    assert run("automask", folder, "-o", folder, *WORDS).code == 0


def test_tiles(run, folder, tmp_path):
    np.save(folder / "large.npy", np.random.default_rng(0).integers(0, 256, (90, 150), dtype=np.uint8))
    answer = run("automask", folder / "large.npy", "-o", tmp_path / "out", "--tile", "64", *WORDS)
    document = json.loads((tmp_path / "out" / "large.automask.json").read_text())
    assert answer.code == 0 and document["masks"] and document["image"]["height"] == 90


def test_a_video(run, tmp_path):
    pytest.importorskip("av", reason="videos are an extra")
    from sam2core.media.render import VideoWriter

    with VideoWriter(tmp_path / "clip.mp4", (40, 60)) as film:
        for index in range(3):
            film.write(np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    words = ("automask", tmp_path / "clip.mp4", "-o", tmp_path / "out", "--every", "2", "--max-objects", "2", *WORDS)
    assert run(*words).code == 0
    frames = json.loads((tmp_path / "out" / "masks.json").read_text())["frames"]
    assert list(frames) == ["0", "1", "2"] and frames["2"]["objects"]
    assert (tmp_path / "out" / "overlay.mp4").exists() and len(list((tmp_path / "out" / "palette").glob("*.png"))) == 3
    ended = run(*words)
    assert ended.code == 1 and "out holds a finished run: --force replaces it" in ended.err
    assert "finished already" in run(*words, "--resume").err
    # nor does `track` replace it unasked, and the other way round; when asked, nothing of the other is left
    (tmp_path / "out" / "palette" / "00007.png").touch()
    follow = ("track", tmp_path / "clip.mp4", "-p", "0:9,9", "--stop", "2", *WORDS[:4], *WORDS[-2:], "-o")
    ended = run(*follow, tmp_path / "out")
    assert ended.code == 1 and "out holds a finished run: --force replaces it" in ended.err
    ended = run(*follow, tmp_path / "out", "--resume")
    assert ended.code == 1 and "--resume goes on with the same command" in ended.err
    assert run(*follow, tmp_path / "out", "--force").code == 0
    assert {file.name for file in (tmp_path / "out").rglob("*.*")} == {
        *("run.json", "masks.json", "overlay.mp4", "00000.png", "00001.png"),
    }
    ended = run(*words)
    assert ended.code == 1 and "out holds a finished run: --force replaces it" in ended.err
    assert run(*words, "--force").code == 0
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["everything"]["every"] == 2 and len(list((tmp_path / "out" / "palette").glob("*.png"))) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "overlay.mp4").write_text("a film of one's own")
    for asked in ((*follow, tmp_path / "mine"), (*words, "-o", tmp_path / "mine")):
        ended = run(*asked)
        assert ended.code == 1 and "overlay.mp4 is there already" in ended.err


def test_what_is_not_there(run, tmp_path):
    assert "no such file" in run("automask", tmp_path / "a.png").err
    assert "holds no image" in run("automask", tmp_path, *WORDS).err


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiles_of_a_tiled_tiff_are_those_of_its_pixels(run, tmp_path, compression):
    tifffile = pytest.importorskip("tifffile", reason="an extra")
    weights = files.write(tmp_path / "w.safetensors", registry.build("test_tiny", weights=False).state_dict())
    words = [weights if word == "none" else word for word in WORDS]
    pixels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", pixels, tile=(32, 48), photometric="rgb", compression=compression)
    np.save(tmp_path / "scan.npy", pixels)
    told = []
    for name in ("scan.tif", "scan.npy"):
        ended = run("automask", tmp_path / name, "-o", tmp_path / name.replace(".", "-"), "--tile", "64", *words)
        assert ended.code == 0, ended.err
        (document,) = (tmp_path / name.replace(".", "-")).glob("*.automask.json")
        told.append(masks_in(json.loads(document.read_text())))
    assert told[0] == told[1] and told[0]


@pytest.mark.parametrize("verb", ["automask", "segment"])
def test_a_frame_of_a_file_of_many_pictures_is_the_picture_by_itself(run, tmp_path, verb):
    """`--frame N` of a stack and an animation; without it the count is said."""
    pages = [np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in range(3)]
    first, *rest = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "stack.tif", save_all=True, append_images=rest)
    first.save(tmp_path / "moving.png", save_all=True, append_images=rest, duration=40)
    Image.fromarray(pages[2]).save(tmp_path / "page.png")
    weights = files.write(tmp_path / "w.safetensors", registry.build("test_tiny", weights=False).state_dict())
    words = [weights if word == "none" else word for word in WORDS]
    if verb == "segment":
        words = [*words[:4], "--image-size", "64", "-p", "20,20", "--json"]

    def ask(name, *more):
        out = () if verb == "segment" else ("-o", tmp_path / f"{name}-{len(more)}")
        return run(verb, tmp_path / name, *out, *more, *words)

    def found(name, *more):
        ended = ask(name, *more)
        assert ended.code == 0, ended.err
        if verb == "automask":
            (document,) = (tmp_path / f"{name}-{len(more)}").glob("*.automask.json")
            ended.out = document.read_text()
        return masks_in(json.loads(ended.out)), ended.err

    alone, _ = found("page.png")
    for name in ("stack.tif", "moving.png"):
        assert found(name, "--frame", "2")[0] == alone
        shown, said = found(name)
        assert shown != alone and f"{name}' holds 3 images, and the first is taken; --frame N" in said
        refused = ask(name, "--frame", "3")
        assert refused.code and f"{name}' could not be read: there is no image 3 in it" in refused.err


def masks_in(document):
    """Every run length in a document, in order."""
    if isinstance(document, dict):
        if "counts" in document:
            return [document["counts"]]
        document = list(document.values())
    return [one for part in document for one in masks_in(part)] if isinstance(document, list) else []
