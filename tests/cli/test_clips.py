"""Many videos in one run, labels of videos, and a detector that finds what is followed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.data.formats import open_data
from sam2core.jobs.output import ClipOutput
from sam2core.jobs.prompt_files import PromptFile
from sam2core.ops import rle

TINY = ("-m", "test_tiny", "--weights", "none", "--image-size", "64", "--threads", "1")


@pytest.fixture
def place(tmp_path) -> Path:
    for clip in "ab":
        (tmp_path / clip).mkdir()
        for number in range(4):
            seed = number + 10 * (clip == "b")
            values = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / clip / f"frame_{number}.png")
    return tmp_path


def rows(path: Path, *entries: dict) -> Path:
    path.write_text("\n".join(map(json.dumps, entries)))
    return path


def seen(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Frame -> object -> mask, of those that are seen."""
    frames = json.loads((folder / "masks.json").read_text())["frames"]
    return {
        number: {
            name: rle.decode(one["segmentation"]) for name, one in frame["objects"].items() if one["object_score"] > 0
        }
        for number, frame in frames.items()
    }


def test_several_clips_with_prompts_of_their_own(run, place):
    said = rows(
        place / "prompts.jsonl",
        {"file": "a", "object": "dog", "category": "animal", "box": [4, 4, 30, 25]},
        {"file": "b", "frame": 1, "box": [4, 4, 30, 25]},
        {"file": "b", "frame": 1, "object": "9", "box": [20, 4, 40, 25]},
    )
    words = ("track", place / "a", place / "b", "--prompts", said, "--write", "rle", "-o", place / "out", *TINY)
    ended = run(*words, "--json")
    assert ended.code == 0, ended.err
    assert [one["masks"] for one in json.loads(ended.out)["videos"]] == [1, 2]
    assert list(seen(place / "out" / "a")) == ["0", "1", "2", "3"] and len(seen(place / "out" / "b")) == 3
    alone = run("track", place / "a", "--prompts", said, "--write", "rle", "-o", place / "alone", *TINY)
    assert alone.code == 0
    names = ("frames", "objects")
    first, second = (json.loads((place / each / "masks.json").read_text()) for each in ("alone", "out/a"))
    assert [first[name] for name in names] == [second[name] for name in names]
    ended = run(*words)
    assert ended.code == 1 and ended.err.count("holds a finished run") == 2 and "2 of 2 videos could not" in ended.err
    (place / "out" / "b" / "run.json").unlink()
    (place / "out" / "b" / "masks.json").unlink()
    ended = run(*words, "--resume")
    assert (
        ended.code == 0 and ended.err.count("finished already") == 1 and (place / "out" / "b" / "masks.json").exists()
    )


def test_labels_of_a_clip(run, place):
    pytest.importorskip("nibabel", reason="volumes are an extra")
    kinds = "coco,yolo,davis,cvat,mots,nifti,tiff,shards"
    said = ("--object", "ann:person", "--box", "0:4,4,30,25", "--object", "bob:person", "--box", "0:20,4,44,30")
    words = ("track", place / "a", *said, "--write", kinds, "-o", place / "out", *TINY)
    ended = run(*words)
    assert ended.code == 0, ended.err
    assert run("track", place / "a", *said, "--write", "rle", "-o", place / "codes", *TINY).code == 0
    expected = [list(frame.values()) for frame in seen(place / "codes").values()]
    coco = json.loads((place / "out" / "coco" / "annotations.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["person"]
    assert [one["file_name"] for one in coco["images"]] == [f"a_frame_{number}.png" for number in range(4)]
    assert len(coco["annotations"]) == sum(map(len, expected)) > 0
    for kind in ("davis", "cvat", "mots", "nifti", "tiff"):
        (item,) = open_data(place / "out" / kind).footage
        assert item.length == 4
        for frame, masks in enumerate(expected):
            read = item.read(frame)
            together = np.any(list(read.values()), axis=0) if read else np.zeros((32, 48), bool)
            np.testing.assert_array_equal(together, np.any(masks, axis=0) if masks else together * False)
    shard = json.loads((place / "out" / "shards" / "00000.json").read_text())
    assert [one["file_name"] for one in shard["images"]] == [f"frame_{number}.png" for number in range(4)]
    for labels in ("coco/annotations.json", "shards/00000.json", "yolo/labels/train"):  # they prompt the same video
        prompts = PromptFile(place / "out" / labels).prompts(place / "a").values()
        assert sorted(one.frame for one in prompts) == [frame for frame in range(4) for _ in expected[frame]], labels
    files = json.loads((place / "out" / "run.json").read_text())["files"]
    assert list(files) == [kind for kind in files if kind in kinds]
    assert run(*words[:-7], place / "out", "--force", "--write", "rle", *TINY).code == 0
    assert {path.name for path in (place / "out").iterdir()} == {"run.json", "masks.json"}  # nothing stale beside it


def test_a_detector_finds_what_is_followed(run, place, monkeypatch):
    said = rows(
        place / "boxes.jsonl",
        {"file": "a", "frame": 0, "box": [4, 4, 20, 25], "category": "dog"},
        {"file": "a", "frame": 0, "box": [5, 4, 20, 25], "category": "dog", "score": 0.6},
        {"file": "a", "frame": 1, "box": [0, 0, 9, 9], "category": "cat"},
        {"file": "a", "frame": 2, "box": [30, 2, 47, 30], "category": "cat"},
    )
    find = ("--detector", "boxes", "--detect", f"file={said}", "--every", "2")
    words = ("track", place / "a", *find, "--write", "rle,coco", "-o", place / "out", *TINY)
    ended = run(*words)
    assert ended.code == 0, ended.err
    told = json.loads((place / "out" / "run.json").read_text())
    assert told["status"] == "complete" and told["settings"]["detector"]["every"] == 2
    assert told["categories"] == {"1": "dog", "2": "cat"}  # the second box of frame 0 is the first, frame 1 not asked
    frames = json.loads((place / "out" / "masks.json").read_text())["frames"]
    assert [list(frame["objects"]) for frame in frames.values()] == [["1"], ["1"], ["1", "2"], ["1", "2"]]
    ended = run(*words[:2], "--detector", "boxes", "-p", "0:1,1", *TINY)
    assert ended.code == 2 and "--detector says what to follow" in ended.err


@pytest.mark.parametrize("at", [1, 3])
def test_a_stopped_run_with_a_detector_goes_on_and_ends_the_same(run, place, monkeypatch, at):
    said = rows(
        place / "boxes.jsonl",
        {"file": "a", "frame": 0, "box": [4, 4, 20, 25], "category": "dog"},
        {"file": "a", "frame": 2, "box": [30, 2, 47, 30], "category": "cat"},
    )
    words = ("track", place / "a", "--detector", "boxes", "--detect", f"file={said}", "--every", "2", *TINY)
    write = ("--write", "rle,palette,coco", "-o")
    assert run(*words, *write, place / "whole").code == 0
    once = ClipOutput.write

    def stopped(output, result, *more, **named):
        if result.frame == at:
            raise KeyboardInterrupt
        once(output, result, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(ClipOutput, "write", stopped)
        assert run(*words, *write, place / "out").code == 130
    told = json.loads((place / "out" / "run.json").read_text())
    assert told["status"] == "interrupted" and told["frames"] == at and not (place / "out" / "coco").exists()
    assert run(*words, *write, place / "out", "--resume").code == 0
    for file in (file for file in (place / "whole").rglob("*") if file.is_file() and file.name != "labels.json"):
        assert file.read_bytes() == (place / "out" / file.relative_to(place / "whole")).read_bytes(), file.name


def test_everything_in_several_videos(run, place):
    pytest.importorskip("av", reason="overlays of videos are an extra")
    for name in "ab":
        first, *others = (Image.open(place / name / f"frame_{number}.png") for number in range(3))
        first.save(place / f"{name}.gif", save_all=True, append_images=others)
    find = ("--points", "2", "--iou", "0", "--stability", "0", "--max-objects", "2", *TINY)
    words = ("automask", place / "[ab].gif", *find, "-o", place / "out")
    ended = run(*words, "--json")
    assert ended.code == 0, ended.err
    assert [Path(one["path"]).name for one in json.loads(ended.out)["videos"]] == ["a.gif", "b.gif"]
    assert run("automask", place / "b.gif", *find, "-o", place / "alone").code == 0
    for file in ("masks.json", "palette/00001.png"):
        alone, among = ((place / folder / file).read_bytes() for folder in ("alone", "out/b"))
        assert alone == among
    ended = run(*words, "--resume")
    assert ended.code == 0 and ended.err.count("is finished already") == 2
    ended = run("automask", place / "a.gif", place / "a" / "frame_0.png", *find)
    assert ended.code == 2 and "frame_0.png an image: give them in two runs" in ended.err
