"""Data sets of every shape, segmented and written; manifests, stops and resumes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from sam2core.data.davis import listed, read, read_masks
from sam2core.data.pictures import DataError
from sam2core.evaluation.vos import MaskFiles, Task, Writers, made_with, result_masks, track_video, write_video
from sam2core.jobs.engines import LocalEngine
from sam2core.jobs.manifest import Manifest, fingerprint, run
from sam2core.predictors.results import FrameResult

SIZE = (48, 64)
PALETTE = [value for number in range(256) for value in (number, 255 - number, 7)]


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    return registry.predictor("test_tiny", "video", weights=False, cleaning={"fill_holes": 0})


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(SIZE[::-1]).save(path)


def mask(path: Path, **objects: tuple[int, int, int]) -> None:
    """objects: o3=(top, left, side) is object 3."""
    ids = np.zeros(SIZE, np.uint8)
    for name, (top, left, side) in objects.items():
        ids[top : top + side, left : left + side] = int(name[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(PALETTE)
    image.save(path)


@pytest.fixture
def mose(tmp_path):
    """Two videos of 4 and 3 frames; in the first an object 5 comes on frame 2."""
    root = tmp_path / "mose"
    for video, frames in (("a", 4), ("b", 3)):
        for frame in range(frames):
            picture(root / "JPEGImages" / video / f"{frame:05d}.jpg", frame)
            later = {"o5": (30, 40, 10)} if video == "a" and frame >= 2 else {}
            mask(root / "Annotations" / video / f"{frame:05d}.png", o1=(5, 5 + frame, 20), o2=(25, 30, 8), **later)
    return root


@pytest.fixture
def sav(tmp_path):
    """One video of 9 frames with every fourth annotated; object 001 comes on the second of these."""
    root = tmp_path / "sav"
    for frame in range(9):
        picture(root / "JPEGImages_24fps" / "v" / f"{frame:05d}.jpg", frame)
    for frame in (0, 4, 8):
        mask(root / "Annotations_6fps" / "v" / "000" / f"{frame:05d}.png", o1=(5, 5, 20))
        mask(root / "Annotations_6fps" / "v" / "001" / f"{frame:05d}.png", **({"o1": (25, 30, 9)} if frame else {}))
    return root


def ids(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_davis_layout(mose, predictor, tmp_path):
    videos = read(mose)
    assert [video.name for video in videos] == ["a", "b"] and len(videos[0].media) == 4
    told = []
    record = write_video(predictor, videos[0], Task(), tmp_path / "out", lambda *step: told.append(step))
    files = sorted((tmp_path / "out" / "a").iterdir())
    assert [file.name for file in files] == [f"{frame:05d}.png" for frame in range(4)]
    assert told == [(frame, 4) for frame in range(1, 5)] and record.frames == record.files == 4
    with Image.open(files[0]) as first:
        assert first.mode == "P" and first.getpalette()[: len(PALETTE)] == PALETTE
    assert set(np.unique(ids(files[0]))) <= {0, 1, 2}
    assert (ids(files[0])[7:23, 7:23] == 1).all()  # the mask that was said, but for its edge
    assert not list((tmp_path / "out").glob("*.part"))
    # the same as a session by hand
    session = predictor.open([str(path) for path in videos[0].media])
    for number, truth in videos[0].read(0).items():
        session.prompt(0, number, mask=truth)
    for result, file in zip(session.propagate(), files):
        wanted = np.zeros(SIZE, np.uint8)
        for number, one in reversed(result_masks(result, apart=True).items()):
            wanted[one] = number
        assert (ids(file) == wanted).all()


def test_objects_that_come_later(mose, predictor):
    video = read(mose, videos=["a"])[0]
    first_only = [result.objects for _, result in track_video(predictor, video, Task())]
    assert first_only == [(1, 2)] * 4
    later = [result.objects for _, result in track_video(predictor, video, Task(later=True))]
    assert later == [(1, 2), (1, 2), (1, 2, 5), (1, 2, 5)]
    for frame in range(2):
        (mose / "Annotations" / "a" / f"{frame:05d}.png").unlink()
    video = read(mose, videos=["a"])[0]
    assert [result and result.objects for _, result in track_video(predictor, video, Task(later=True))] == [
        None,
        None,
        (1, 2, 5),
        (1, 2, 5),
    ]
    with pytest.raises(DataError, match="Annotations/a shows no object on the first frame, 00000"):
        list(track_video(predictor, video, Task()))


def test_sav_layout(sav, predictor, tmp_path):
    (video,) = read(sav)
    assert video.overlapping and video.names == ["00000", "00004", "00008"]
    record = write_video(predictor, video, Task(later=True), tmp_path / "out")
    assert record.frames == 9 and record.files == 18
    out = tmp_path / "out" / "v"
    assert sorted(path.name for path in out.iterdir()) == ["000", "001"]
    assert not any(ids(out / "001" / f"{frame:05d}.png").any() for frame in range(4))
    assert ids(out / "001" / "00004.png")[27:32, 32:37].all() and ids(out / "000" / "00000.png").max() == 1


@pytest.mark.parametrize("prompt", ["click", "box"])
def test_other_prompts_come_from_the_first_mask(mose, predictor, prompt):
    video = read(mose, videos=["b"])[0]
    session = predictor.open([str(path) for path in video.media])
    said = {"click": {"points": [[14, 14]]}, "box": {"box": [5, 5, 25, 25]}}[prompt]
    wanted = session.prompt(0, 1, **said).logits[0]
    _, result = next(track_video(predictor, video, Task(prompt)))
    torch.testing.assert_close(result.logits[0], wanted, atol=2e-4, rtol=1e-3)  # memorized with object 2
    with pytest.raises(ValueError, match="prompts are mask, click, box, not 'dot'"):
        Task("dot")


def test_everything_as_one_object(mose, predictor, tmp_path):
    write_video(predictor, read(mose)[1], Task(merged=True), tmp_path)
    assert set(np.unique(ids(tmp_path / "b" / "00000.png"))) <= {0, 1}
    assert ids(tmp_path / "b" / "00000.png")[27:31, 32:36].all()  # where object 2 is


def test_the_lower_number_wins_ties(tmp_path):
    logits = torch.stack([torch.full(SIZE, 2.0), torch.full(SIZE, 2.0), torch.full(SIZE, 1.0)])
    result = FrameResult(0, (7, 3, 1), logits, torch.ones(3), torch.ones(3), SIZE)
    masks = result_masks(result, apart=True)
    assert list(masks) == [1, 3, 7] and masks[3].all() and not masks[7].any() and not masks[1].any()
    assert all(mask.all() for mask in result_masks(result, apart=False).values())
    files = MaskFiles(tmp_path, None)
    files.write("0", result_masks(result, apart=False), SIZE)
    assert (ids(tmp_path / "0.png") == 1).all()


# runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def threads():
    """`tiny` sets their number, here and in workers."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiny(number: int):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return registry.predictor("test_tiny", "video", weights=False, cleaning={"fill_holes": 0})


def hashes(out: Path) -> dict[str, str]:
    return {name: one["sha256"] for name, one in json.loads((out / "manifest.json").read_text())["done"].items()}


def test_a_stopped_run_goes_on_and_ends_the_same(mose, predictor, tmp_path):
    videos = read(mose)
    names = [video.name for video in videos]
    made_by = made_with(predictor, "test_tiny", Task())
    assert made_by["fingerprint"] == fingerprint(predictor.model) and made_by["options"]["cleaning.fill_holes"] == 0
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    writers = partial(Writers, lambda number: predictor, Task())
    assert [
        name for name, _ in run(LocalEngine(), writers(whole), videos, Manifest(whole, made_by, names, resume=False))
    ]
    assert list(hashes(whole)) == names

    next(run(LocalEngine(), writers(parts), videos, Manifest(parts, made_by, names, resume=False)))
    (parts / "b.part").mkdir()
    (parts / "b.part" / "rubbish.png").touch()
    with pytest.raises(ValueError, match="holds the masks of a run already"):
        Manifest(parts, made_by, names, resume=False)
    manifest = Manifest(parts, made_by, names, resume=True)
    assert manifest.waiting == ["b"]
    assert [name for name, _ in run(LocalEngine(), writers(parts), videos, manifest)] == ["b"]
    assert hashes(parts) == hashes(whole) and not (parts / "b" / "rubbish.png").exists()
    assert not Manifest(parts, made_by, names, resume=True).waiting

    with pytest.raises(ValueError, match="of another run: fingerprint was .* is 'other'"):
        Manifest(parts, {**made_by, "fingerprint": "other"}, names, resume=True)
    with pytest.raises(ValueError, match="2 videos were asked for, now 1, 1 of them in one only"):
        Manifest(parts, made_by, ["a"], resume=True)


def test_two_workers_make_the_same_files(mose, tmp_path):
    videos = read(mose)
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        manifest = Manifest(out, {}, [video.name for video in videos], resume=False)
        list(run(LocalEngine(workers), Writers(tiny, Task(), out), videos, manifest))
        found.append(hashes(out))
    assert found[0] == found[1] and set(found[0]) == {"a", "b"}


class Deadly(LocalEngine):
    """Its workers die over the first video."""

    def map(self, prepare, items):
        yield 0, ChildProcessError("3 workers died over it")
        for index, result in super().map(prepare, items[1:]):
            yield index + 1, result


def test_a_video_that_kills_its_workers_is_named_when_the_others_are_done(mose, predictor, tmp_path):
    videos = read(mose)
    manifest = Manifest(tmp_path / "out", {}, ["a", "b"], resume=False)
    writers = Writers(lambda number: predictor, Task(), tmp_path / "out")
    with pytest.raises(ChildProcessError, match="1 of 2 videos could not be done; a: 3 workers died over it"):
        list(run(Deadly(), writers, videos, manifest))
    assert Manifest(tmp_path / "out", {}, ["a", "b"], resume=True).waiting == ["a"]


# folders -------------------------------------------------------------------------------------------------------------


def test_shapes_of_data_sets(tmp_path):
    shapes = {
        "davis": ("JPEGImages/480p/v", "Annotations/480p/v"),
        "mose": ("JPEGImages/v", "Annotations/v"),
        "puma": ("v/JPEGImages", "v/Annotations"),
        "v": ("JPEGImages", "Annotations"),
    }
    for shape, (images, masks) in shapes.items():
        picture(tmp_path / shape / images / "frame_000010.jpg", 0)
        picture(tmp_path / shape / images / "frame_2.jpg", 0)
        mask(tmp_path / shape / masks / "frame_2.png", o1=(1, 1, 5))
        (video,) = read(tmp_path / shape)
        assert video.name == "v" and [path.stem for path in video.media] == ["frame_2", "frame_000010"]
        assert list(video.read(0)) == [1] and video.names == ["frame_2"]
        assert [each.name for each in read_masks(tmp_path / shape)] == ["v"]
    assert [each.name for each in read_masks(tmp_path / "mose" / "Annotations")] == ["v"]


def test_what_does_not_fit_is_named(tmp_path, mose):
    with pytest.raises(DataError, match="no folder .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "bare" / "x").mkdir(parents=True)
    with pytest.raises(DataError, match="holds neither JPEGImages_24fps nor JPEGImages"):
        read(tmp_path / "bare")
    with pytest.raises(DataError, match="no video c"):
        read(mose, videos=["a", "c"])
    picture(mose / "JPEGImages" / "c" / "0.jpg", 0)
    with pytest.raises(DataError, match="video .*JPEGImages/c has no folder of masks"):
        read(mose)
    (mose / "Annotations" / "c" / "000").mkdir(parents=True)
    mask(mose / "Annotations" / "c" / "0.png", o1=(0, 0, 4))
    with pytest.raises(DataError, match="0.png stands beside folders"):
        read(mose)


def test_lists_of_videos(mose):
    assert listed(mose, None) is None
    (mose / "ImageSets" / "2017").mkdir(parents=True)
    (mose / "ImageSets" / "2017" / "val.txt").write_text("b\n")
    assert listed(mose, None) == listed(mose, "val") == ["b"]
    (mose / "ImageSets" / "2017" / "train.txt").write_text("a\n")
    with pytest.raises(DataError, match="several lists of videos: choose one of train, val"):
        listed(mose, None)
    with pytest.raises(DataError, match="no list .*test.txt; it has train, val"):
        listed(mose, "test")
