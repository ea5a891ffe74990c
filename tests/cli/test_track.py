"""`track`: prompts go to their objects and frames; what is written is the same however often a run was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError

from sam2core.jobs.clip import ClipRun
from sam2core.jobs.folder import KINDS
from sam2core.jobs.output import split
from sam2core.jobs.plan import Plan
from sam2core.jobs.prompt_files import PromptFile
from sam2core.jobs.prompts import Prompts
from sam2core.media import frames as frames_module
from sam2core.ops import rle
from sam2core.predictors.results import FrameResult
from sam2core.predictors.session import VideoSession

HEIGHT, WIDTH, COUNT = 48, 64, 8
ALL = ",".join(KINDS)


def picture(frame: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright square that moves over a gradient."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 2 % 256, y * 3 % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    image[10:26, 8 + 3 * frame : 24 + 3 * frame] = (250, 220, 40)
    return image


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of test_tiny under which objects are there."""
    import registry
    from sam2core.checkpoints import files

    torch.manual_seed(3)
    model = registry.build("test_tiny", weights=False)
    state = model.state_dict()
    last = max(name for name in state if name.startswith("mask_decoder.presence_head") and name.endswith("bias"))
    state[last] = state[last] + 4
    return files.write(tmp_path_factory.mktemp("weights") / "tiny.safetensors", state)


@pytest.fixture
def clip(tmp_path) -> Path:
    folder = tmp_path / "clip"
    folder.mkdir()
    for frame in range(COUNT):
        Image.fromarray(picture(frame)).save(folder / f"shot{frame}.png")
    return folder


def film(path: Path, count: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "10", "preset": "ultrafast", "g": "10"}
        for frame in range(count):
            shown = av.VideoFrame.from_ndarray(picture(frame % 12, height, width), format="rgb24")
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def track(run, weights):
    """`sam2core track` with the smallest model."""

    def call(*words):
        return run("track", *words, "-m", "test_tiny", "--weights", weights, "--image-size", "64")

    return call


@pytest.fixture
def interrupt(monkeypatch):
    """Raise SIGINT while a frame is tracked."""
    visit = VideoSession._visit
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def at(frame: int, times: int = 1) -> None:
        def visit_or_not(self, number, *, backwards):
            if number == frame:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            return visit(self, number, backwards=backwards)

        monkeypatch.setattr(VideoSession, "_visit", visit_or_not)

    yield at
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler


def content(folder: Path) -> dict[str, bytes]:
    """Every file of an output but the two that name their folder or its codec's state."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "overlay.mp4")
    }


def films(folder: Path) -> list[np.ndarray]:
    with frames_module.open_source(folder / "overlay.mp4") as source:
        return [np.array(frame) for frame in source]


TWO = ("--object", "dog", "--point", "0:14,16", "--object", "cat", "--box", "2:20,12,50,30")


def test_every_kind_of_output(track, clip, tmp_path):
    out = tmp_path / "out"
    ended = track(clip, *TWO, "--point", "2:60,44,0", "-o", out, "--write", ALL)
    assert ended.code == 0, ended.err
    assert "tracking: 8 frames in" in ended.err and "frames/s" in ended.err
    assert "object dog  present on 8 of 8 frames  iou" in ended.out and str(out / "overlay.mp4") in ended.out
    assert sorted(path.name for path in out.iterdir()) == [
        *("cutouts", "masks", "masks.json", "overlay.mp4", "palette", "run.json"),
    ]
    document = json.loads((out / "masks.json").read_text())
    assert document["complete"] is True and document["video"]["height"] == HEIGHT
    assert document["objects"] == [{"number": 1, "id": "dog"}, {"number": 2, "id": "cat"}]
    assert list(document["frames"]) == [str(frame) for frame in range(COUNT)]
    covered = 0
    for frame, said in document["frames"].items():
        assert said["name"] == f"shot{frame}"
        dog, cat = (np.asarray(Image.open(out / "masks" / name / f"shot{frame}.png")) for name in ("dog", "cat"))
        for name, mask in (("dog", dog), ("cat", cat)):
            coded = said["objects"][name]
            np.testing.assert_array_equal(rle.decode(coded["segmentation"]), mask > 0)
            assert coded["object_score"] > 0 and isinstance(coded["iou"], float)
            cut = np.asarray(Image.open(out / "cutouts" / name / f"shot{frame}.png"))
            np.testing.assert_array_equal(cut[..., 3], mask)
            np.testing.assert_array_equal(cut[mask > 0][:, :3], picture(int(frame))[mask > 0])
        numbered = Image.open(out / "palette" / f"shot{frame}.png")
        numbers = np.asarray(numbered)
        assert numbered.mode == "P" and numbered.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
        np.testing.assert_array_equal(numbers > 0, (dog > 0) | (cat > 0))
        assert (dog[numbers == 1] > 0).all() and (cat[numbers == 2] > 0).all()
        covered += (numbers > 0).sum()
    assert covered
    drawn = films(out)
    assert len(drawn) == COUNT and drawn[0].shape == (HEIGHT, WIDTH, 3)


def test_the_masks_are_those_of_a_session(track, clip, weights, tmp_path):
    import registry

    assert track(clip, *TWO, "-o", tmp_path / "out", "--direction", "both").code == 0
    session = registry.predictor("test_tiny", "video", weights=weights, image_size=64).open(clip)
    session.prompt(0, "dog", points=[[14, 16]])
    session.prompt(2, "cat", box=[20, 12, 50, 30])
    found = json.loads((tmp_path / "out" / "masks.json").read_text())["frames"]
    for result in session.propagate(direction="both"):
        for name, mask in result.masks.items():
            one = found[str(result.frame)]["objects"][name]
            np.testing.assert_array_equal(rle.decode(one["segmentation"]), mask.numpy())
        assert found[str(result.frame)]["objects"]["cat"]["iou"] == pytest.approx(float(result.iou[1]), abs=1e-4)


def test_prompts_belong_to_the_object_before_them(track, clip, tmp_path):
    words = ("-p", "0:5,5", "--object=b", "--box=1:2,3,40,40", "-p1:9,9,0", "--object", "a", "-p", "0:7,7",
             "--object", "b", "-p", "3:8,8", "--object", "1", "-p", "0:6,6,0")  # fmt: skip
    ended = track(clip, *words, "-o", tmp_path / "out", "--write", "rle", "--json", "-q")
    assert ended.code == 0 and not ended.err
    summary = json.loads(ended.out)
    assert summary["status"] == "complete" and summary["frames"] == COUNT
    assert [one["id"] for one in summary["objects"]] == ["1", "b", "a"]
    assert summary["prompts"] == [
        {"object": "1", "frame": 0, "points": [[5, 5], [6, 6]], "labels": [1, 0]},
        {"object": "b", "frame": 1, "points": [[9, 9]], "labels": [0], "box": [2, 3, 40, 40]},
        {"object": "a", "frame": 0, "points": [[7, 7]], "labels": [1]},
        {"object": "b", "frame": 3, "points": [[8, 8]], "labels": [1]},
    ]
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == summary
    # and what run.json says can be said again
    assert track(clip, "--prompts", tmp_path / "out" / "run.json", "-o", tmp_path / "again", "--write", "rle").code == 0
    assert content(tmp_path / "again") == content(tmp_path / "out")


def test_masks_as_pictures_palettes_and_codes(track, clip, tmp_path):
    inside = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    inside[10:26, 8:24] = 1
    Image.fromarray(inside * 255).save(tmp_path / "white.png")
    numbered = Image.fromarray(inside)
    numbered.putpalette([0, 0, 0, 128, 0, 0])
    numbered.save(tmp_path / "davis.png")
    entries = {"prompts": [{"object": 1, "frame": 0, "mask": rle.encode(inside)}]}
    (tmp_path / "codes.json").write_text(json.dumps(entries))
    entries["prompts"][0]["mask"] = "white.png"
    (tmp_path / "path.json").write_text(json.dumps(entries))
    codes = []
    for at, words in enumerate((
        ("--mask", f"0:{tmp_path}/white.png"),
        ("--mask", f"0:{tmp_path}/davis.png"),
        ("--prompts", tmp_path / "codes.json"),
        ("--prompts", tmp_path / "path.json"),
    )):  # fmt: skip
        ended = track(clip, *words, "-o", tmp_path / f"out{at}", "--write", "palette", "--stop", "3")
        assert ended.code == 0, ended.err
        codes.append(content(tmp_path / f"out{at}"))
    assert codes[0] == codes[1] == codes[2] == codes[3]
    assert sorted(codes[0]) == [f"palette/shot{frame}.png" for frame in range(3)]


def test_frames_keep_the_numbers_of_the_video(track, clip, tmp_path):
    ended = track(clip, "-p", "4:14,16", "--start", "2", "--stride", "2", "--stop", "7", "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    frames = json.loads((tmp_path / "out" / "masks.json").read_text())["frames"]
    assert {number: said["name"] for number, said in frames.items()} == {"4": "shot4", "6": "shot6"}
    for wrong in ("0:14,16", "3:14,16", "7:14,16"):
        ended = track(clip, "-p", wrong, "--start", "2", "--stride", "2", "--stop", "7", "-o", tmp_path / "none")
        assert ended.code == 1 and "frames seen are 2, 4 and so on, before 7" in ended.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("direction, stops", [("forward", (2, 5)), ("backward", (6, 3)), ("both", (5, 1, 0))])
def test_stopped_and_resumed_is_as_never_stopped(track, clip, tmp_path, interrupt, monkeypatch, direction, stops):
    words = (clip, "--object", "dog", "-p", "2:20,16", "--object", "cat", "--box", "7:20,12,50,30",
             "--direction", direction, "--write", ALL)  # fmt: skip
    assert track(*words, "-o", tmp_path / "whole").code == 0
    visit = VideoSession._visit
    for turn, stop in enumerate(stops):
        interrupt(stop)
        ended = track(*words, "-o", tmp_path / "parts", *(["--resume"] if turn else []))
        monkeypatch.setattr(VideoSession, "_visit", visit)
        assert ended.code == 130, ended.err
        assert "--resume goes on" in ended.err and "Traceback" not in ended.err
        partial = json.loads((tmp_path / "parts" / "masks.json").read_text())
        assert partial["complete"] is False and str(stop) in partial["frames"]
        assert len(films(tmp_path / "parts")) == len(partial["frames"])
        assert json.loads((tmp_path / "parts" / "run.json").read_text())["frames"] == len(partial["frames"])
        assert not list((tmp_path / "parts").rglob("*.part"))
    ended = track(*words, "-o", tmp_path / "parts", "--resume")
    assert ended.code == 0, ended.err
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    for mine, theirs in zip(films(tmp_path / "parts"), films(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    ends = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("parts", "whole")]
    assert ends[0] == ends[1] and ends[0]["status"] == "complete"


def test_a_crop_is_looked_at_alone(track, clip, tmp_path, interrupt):
    """Masks are those of the cut images, in their place; a stopped run goes on with the same crop and no other."""
    from sam2core.media.frames import open_source

    x0, y0, x1, y1 = 6, 4, 50, 40
    with open_source(clip) as source:
        for index, frame in enumerate(source):
            (tmp_path / "cut").mkdir(exist_ok=True)
            Image.fromarray(np.asarray(frame)[y0:y1, x0:x1]).save(tmp_path / "cut" / f"shot{index}.png")
    assert track(tmp_path / "cut", "-p", "0:8,12", "-o", tmp_path / "small", "--write", "masks").code == 0
    words = (clip, "-p", "0:14,16", "-o", tmp_path / "out", "--write", "masks,overlay,palette,rle,cutouts")
    interrupt(3)
    assert track(*words, "--crop", "6,4,50,40").code == 130
    interrupt(-1)
    ended = track(*words, "--crop", "6,4,51,40", "--resume")
    assert ended.code == 1 and "crop was [6.0, 4.0, 50.0, 40.0] and is now [6.0, 4.0, 51.0, 40.0]" in ended.err
    ended = track(*words, "--crop", "6,4,50,40", "--resume")
    assert ended.code == 0, ended.err
    found = 0
    for index in range(COUNT):
        whole = np.asarray(Image.open(tmp_path / "out" / "masks" / "1" / f"shot{index}.png"))
        part = np.asarray(Image.open(tmp_path / "small" / "masks" / "1" / f"shot{index}.png"))
        np.testing.assert_array_equal(whole[y0:y1, x0:x1], part)
        assert whole.shape == (HEIGHT, WIDTH) and whole.sum() == part.sum()
        found += int((part > 0).sum())
    assert found
    ended = track(clip, "-p", "0:60,44", "--crop", "6,4,50,40", "-o", tmp_path / "no")
    assert ended.code == 1 and "outside the crop (6, 4, 50, 40)" in ended.err
    ended = track(clip, "-p", "0:14,16", "--crop", "50,40,6,4", "-o", tmp_path / "no")
    assert ended.code == 2 and "the upper left corner comes first" in ended.err


def test_random_weights_are_the_same_when_a_run_goes_on(run, clip, tmp_path, interrupt):
    words = ("track", clip, "-p", "0:14,16", "-m", "test_tiny", "--weights", "none", "--image-size", "64", "-o")
    interrupt(3)
    assert run(*words, tmp_path / "out", "--write", "rle").code == 130
    interrupt(-1)
    ended = run(*words, tmp_path / "out", "--write", "rle", "--resume")
    assert ended.code == 0, ended.err
    assert list(json.loads((tmp_path / "out" / "masks.json").read_text())["frames"]) == [str(at) for at in range(COUNT)]


def test_a_second_interruption_stops_at_once(track, clip, tmp_path, interrupt, monkeypatch):
    visit = VideoSession._visit
    interrupt(3, times=2)
    ended = track(clip, *TWO, "-o", tmp_path / "parts")
    assert ended.code == 130 and "3 of 8 frames are in" in ended.err
    monkeypatch.setattr(VideoSession, "_visit", visit)
    assert track(clip, *TWO, "-o", tmp_path / "parts", "--resume").code == 0
    assert track(clip, *TWO, "-o", tmp_path / "whole").code == 0
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


@pytest.mark.parametrize("times", [1, 2])
def test_a_request_while_a_run_is_finished_takes_nothing_from_it(track, clip, tmp_path, interrupt, monkeypatch, times):
    tidy = ClipRun._tidy

    def asked(self):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        tidy(self)

    monkeypatch.setattr(ClipRun, "_tidy", asked)
    ended = track(clip, *TWO, "-o", tmp_path / "out", "--write", "palette")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "complete"
    assert not (tmp_path / "out" / "unfinished").exists()


def test_a_killed_run_goes_on_from_its_last_saved_session(track, clip, tmp_path, monkeypatch):
    """What SIGKILL leaves: a document with .part, more frames in it than the session knows, a line that breaks off."""
    monkeypatch.setattr("sam2core.jobs.clip.CHECKPOINT", 0.0)
    saved = []

    def save(self, path, keep=VideoSession.save):
        if len(saved) < 3:
            keep(self, path)
            saved.append(self.position)

    out, left = tmp_path / "out", tmp_path / "left"
    visit = VideoSession._visit

    def stop(self, number, *, backwards):
        if number == 5:
            shutil.copytree(out, left)
            with next(left.glob("masks.json.part")).open("ab") as file:
                file.write(b',\n"5": {"name": "sh')
        return visit(self, number, backwards=backwards)

    monkeypatch.setattr(VideoSession, "save", save)
    monkeypatch.setattr(VideoSession, "_visit", stop)
    assert track(clip, *TWO, "-o", out).code == 0
    monkeypatch.setattr(VideoSession, "_visit", visit)
    assert saved == [0, 1, 2] and (left / "unfinished" / "session.safetensors").exists()
    assert "stopped after" in track(clip, *TWO, "-o", left).err
    assert track(clip, *TWO, "-o", left, "--resume").code == 0
    (left / "overlay.mp4.part").unlink(missing_ok=True)
    assert content(left) == content(out)
    assert len(films(left)) == COUNT


def test_what_is_there_is_not_overwritten(track, clip, tmp_path):
    out = tmp_path / "out"
    words = (clip, *TWO, "-o", out, "--write", "palette", "--stop", "3")
    assert "no run to resume" in track(*words, "--resume").err
    assert track(*words).code == 0
    (out / "palette" / "mine.txt").write_text("kept")
    before = content(out)
    ended = track(*words)
    assert ended.code == 1 and "holds a finished run: --force replaces it" in ended.err and ended.err.count("\n") == 1
    assert track(*words, "--resume").code == 0 and content(out) == before
    ended = track(clip, *TWO, "-o", out, "--write", "palette", "--resume")
    assert ended.code == 1 and "stop was 3 and is now None" in ended.err
    ended = track(clip, "-p", "0:1,1", "-o", out, "--write", "palette", "--resume", "--stop", "3")
    assert ended.code == 1 and "prompts was" in ended.err
    assert track(clip, *TWO, "-o", out, "--write", "palette", "--start", "0", "--stop", "4", "--force").code == 0
    assert sorted(content(out)) == ["palette/mine.txt", *(f"palette/shot{frame}.png" for frame in range(4))]


@pytest.mark.parametrize(
    "words, code, complaint",
    [
        ((), 2, "say what to follow"),
        (("-p", "5,4"), 2, "F:X,Y[,0|1], such as 0:210,350"),
        (("-p", "x:5,4"), 2, "F:X,Y[,0|1]"),
        (("-b", "0:9,9,3,3"), 2, "upper left corner comes first"),
        (("-b", "0:1,1,9,9", "-b", "0:2,2,9,9"), 2, "more than one box"),
        (("--object", "dog"), 2, "--object dog says nothing"),
        (("--object", "dog", "--object", "cat", "-p", "0:1,1"), 2, "--object dog says nothing"),
        (("-p", "0:1,1", "--mask", "0:x.png"), 2, "stands alone"),
        (("-p", "0:1,1", "--write", "mp4"), 2, "'mp4' is none of overlay, palette"),
        (("-p", "0:1,1", "--resume", "--force"), 2, "choose one"),
        (("-p", "0:1,1", "--start", "4", "--stop", "4"), 2, "comes before the first frame"),
        (("-p", "0:1,1", "nonsense"), 2, "KEY=VALUE"),
        (("-p", "0:99,4"), 1, "object '1' on frame 0: point (99, 4) lies outside the image of 64x48 pixels"),
        (("-p", "8:1,1"), 1, "object '1' on frame 8: that lies beyond the video's end, its last frame is 7"),
        (("--mask", "0:gone.png"), 1, "gone.png: no such file"),
        (("--object", "a/b", "-p", "0:1,1"), 1, "cannot name a folder"),
    ],
)
def test_wrong_usage_leaves_nothing_behind(track, clip, tmp_path, words, code, complaint):
    ended = track(clip, *words, "-o", tmp_path / "out")
    assert ended.code == code and complaint in ended.err and "Traceback" not in ended.err and not ended.out
    assert code == 2 or ended.err.rstrip().count("\n") == ("small model" in ended.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "entry, complaint",
    [
        ({"frame": 0, "points": [[1, 1]]}, 'needs an "object"'),
        ({"object": 1, "frame": -1, "points": [[1, 1]]}, 'needs a "frame"'),
        ({"object": 1, "frame": 0}, "says nothing"),
        ({"object": 1, "frame": 0, "points": [[1, 1]], "labels": [1, 0]}, "one label per point"),
        ({"object": 1, "frame": 0, "points": [1, 1]}, "points are [[x, y], ...]"),
        ({"object": 1, "frame": 0, "points": 5}, "points are [[x, y], ...], not 5"),
        ({"object": 1, "frame": 0, "points": [[1, 1]], "labels": 1}, "one label per point"),
        ({"object": 1, "frame": 0, "box": 5}, "a box is [x0, y0, x1, y1], not 5"),
        ({"object": 1, "frame": 0, "mask": 5}, "a mask is the path of an image or COCO RLE, not 5"),
        ({"object": 1, "frame": 0, "points": None, "labels": None, "box": None, "mask": None}, "says nothing"),
        ({"object": 1, "frame": 0, "point": [[1, 1]]}, "did you mean 'points'?"),
        ({"object": 1, "frame": 0, "mask": {"size": [2, 2], "counts": [4]}}, "the mask is 2 x 2, the video 64 x 48"),
    ],
)
def test_prompt_files_that_make_no_sense(track, clip, tmp_path, entry, complaint):
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": [entry]}))
    ended = track(clip, "--prompts", tmp_path / "prompts.json", "-o", tmp_path / "out")
    assert ended.code == 1 and complaint in ended.err and "Traceback" not in ended.err
    for text in ("[]", '{"prompts": 3}'):
        (tmp_path / "prompts.json").write_text(text)
        ended = track(clip, "--prompts", tmp_path / "prompts.json")
        assert ended.code == 1 and "a prompts file is" in ended.err and "Traceback" not in ended.err


def test_null_in_a_prompts_file_is_not_said(tmp_path):
    entry = {"object": 1, "frame": 0, "points": None, "labels": None, "box": [1, 1, 50, 50], "mask": None}
    (tmp_path / "prompts.json").write_text(
        json.dumps({"prompts": [entry, {"object": 2, "frame": 0, "points": [[1, 1]], "labels": None}]})
    )
    prompts = PromptFile(tmp_path / "prompts.json").prompts()
    assert prompts.document() == [
        {"object": "1", "frame": 0, "box": [1, 1, 50, 50]},
        {"object": "2", "frame": 0, "points": [[1.0, 1.0]], "labels": [1]},
    ]


def test_videos_that_are_none(track, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for source, complaint in (
        ("empty", "has no images"),
        ("text.mp4", "no video"),
        ("gone.mp4", "no file or folder"),
    ):
        ended = track(tmp_path / source, "-p", "0:1,1", "-o", tmp_path / "out")
        assert ended.code == 1 and complaint in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_frame_of_another_size_ends_the_run_and_keeps_what_came_before(track, clip, tmp_path):
    Image.fromarray(picture(5)[:40]).save(clip / "shot5.png")
    ended = track(clip, *TWO, "-o", tmp_path / "out")
    assert ended.code == 1 and ended.err.count("\n") == 1, ended.err
    assert "frame 5 of" in ended.err and "5 of 8 frames are in" in ended.err and "--resume goes on" in ended.err
    document = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert list(document["frames"]) == ["0", "1", "2", "3", "4"] and document["complete"] is False
    assert len(films(tmp_path / "out")) == 5
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "failed"
    Image.fromarray(picture(5)).save(clip / "shot5.png")
    assert track(clip, *TWO, "-o", tmp_path / "out", "--resume").code == 0
    assert track(clip, *TWO, "-o", tmp_path / "whole").code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_full_disk_is_told_and_the_run_goes_on_from_its_last_saved_session(track, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("sam2core.jobs.clip.CHECKPOINT", 0.0)
    out, tries = tmp_path / "out", []

    def save(*words, write=safetensors.torch.save_file, **more):
        tries.append(words)
        if len(tries) > 3:
            raise SafetensorError("No space left on device (os error 28)")
        write(*words, **more)

    with monkeypatch.context() as full:
        full.setattr(safetensors.torch, "save_file", save)
        ended = track(clip, *TWO, "-o", out)
    assert len(tries) == 5 and ended.code == 1 and "Traceback" not in ended.err
    assert ended.err.count(f"the disk of {out / 'unfinished'} is full: ") == 2 and "are free" in ended.err, ended.err
    told = json.loads((out / "run.json").read_text())
    assert told["status"] == "failed" and told["frames"] == 4 and "is full" in told["error"]
    assert track(clip, *TWO, "-o", out, "--resume").code == 0
    assert track(clip, *TWO, "-o", tmp_path / "whole").code == 0
    assert content(out) == content(tmp_path / "whole")


def test_a_fault_of_ours_loses_no_frame(track, clip, tmp_path, monkeypatch):
    visit = VideoSession._visit

    def fail(self, number, *, backwards):
        if number == 4:
            raise RuntimeError("out of memory")
        return visit(self, number, backwards=backwards)

    monkeypatch.setattr(VideoSession, "_visit", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        track(clip, *TWO, "-o", tmp_path / "out")
    assert "out of memory" in json.loads((tmp_path / "out" / "run.json").read_text())["error"]
    monkeypatch.setattr(VideoSession, "_visit", visit)
    assert track(clip, *TWO, "-o", tmp_path / "out", "--resume").code == 0
    assert track(clip, *TWO, "-o", tmp_path / "whole").code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_video_that_breaks_off(track, tmp_path):
    path = film(tmp_path / "clip.mkv", 30)
    os.truncate(path, path.stat().st_size * 2 // 3)
    ended = track(path, "-p", "0:14,16", "-o", tmp_path / "out")
    assert ended.code == 1 and "cut off" in ended.err and "frames are in" in ended.err, ended.err
    frames = json.loads((tmp_path / "out" / "masks.json").read_text())["frames"]
    assert 5 < len(frames) < 30 and len(films(tmp_path / "out")) == len(frames)


def test_memory_does_not_grow_with_the_video(track, tmp_path, monkeypatch):
    path = film(tmp_path / "long.mp4", 240)
    resident, visit = {}, VideoSession._visit

    def measure(self, number, *, backwards):
        if number % 60 == 59:
            resident[number] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        return visit(self, number, backwards=backwards)

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    monkeypatch.setattr(VideoSession, "_visit", measure)
    ended = track(path, "-p", "0:14,16", "-o", tmp_path / "out")
    assert ended.code == 0 and json.loads((tmp_path / "out" / "run.json").read_text())["frames"] == 240
    assert resident[239] - resident[119] < 8 * 2**20, resident


class Feed(frames_module.Reader):
    """A camera that sends so many frames."""

    live, window, fps = True, 8, 25.0

    def __init__(self, count: int, sizes: int = HEIGHT) -> None:
        self.where, self.left, self.last = "'camera:7'", count, sizes

    def read(self, index: int) -> np.ndarray:
        if index >= self.left:
            raise IndexError(index)
        return picture(index)[: self.last if index == self.left - 1 else HEIGHT]


@pytest.fixture
def camera(monkeypatch):
    def plug(reader):
        known = (lambda source: isinstance(source, str) and source == "camera:7", lambda _: reader)
        monkeypatch.setattr(frames_module, "READERS", (known, *frames_module.READERS))

    return plug


def test_a_camera_is_followed_until_it_stops(track, camera, clip, tmp_path):
    camera(Feed(COUNT))
    words = ("--object", "dog", "-p", "0:14,16", "--object", "cat", "--box", "2:20,12,50,30", "--write", ALL)
    ended = track("--camera", "7", *words, "--object", "late", "-p", "90:3,3", "-o", tmp_path / "live")
    assert ended.code == 0 and "ended before frame 90, where 'late'" in ended.err
    document = json.loads((tmp_path / "live" / "masks.json").read_text())
    assert [list(said["objects"]) for said in document["frames"].values()] == [["dog"]] * 2 + [["dog", "cat"]] * 6
    assert len(films(tmp_path / "live")) == COUNT and document["complete"]
    assert not np.asarray(Image.open(tmp_path / "live" / "masks" / "cat" / "00001.png")).any()
    # the masks of the dog are those it has in a file
    assert track(clip, "--object", "dog", "-p", "0:14,16", "-o", tmp_path / "file").code == 0
    offline = json.loads((tmp_path / "file" / "masks.json").read_text())["frames"]
    for number, said in document["frames"].items():
        assert said["objects"]["dog"]["segmentation"] == offline[number]["objects"]["dog"]["segmentation"]
    ended = track("--camera", "7", *words, "-o", tmp_path / "live", "--resume")
    assert ended.code == 2 and "--resume is for files" in ended.err


def test_a_camera_is_stopped(track, camera, interrupt, tmp_path):
    camera(Feed(1000))
    interrupt(4)
    ended = track("--camera", "7", "-p", "1:14,16", "-o", tmp_path / "live", "predictors.video.cleaning.fill_holes=0")
    assert ended.code == 0, ended.err
    summary = json.loads((tmp_path / "live" / "run.json").read_text())
    assert summary["status"] == "complete" and summary["frames"] == 5
    assert summary["settings"]["overrides"] == ["predictors.video.cleaning.fill_holes=0"]
    camera(Feed(1000))
    assert track("--camera", "7", "-p", "0:14,16", "-o", tmp_path / "few", "--stop", "3").code == 0
    assert len(films(tmp_path / "few")) == 3


def test_a_camera_that_changes_its_mind(track, camera, tmp_path):
    camera(Feed(5, sizes=30))
    ended = track("--camera", "7", "-p", "0:14,16", "-o", tmp_path / "live")
    assert ended.code == 1 and "64x30" in ended.err and "4 frames are in" in ended.err
    assert len(films(tmp_path / "live")) == 4


def test_without_pyav_other_outputs_work(track, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    ended = track(clip, "-p", "0:1,1", "-o", tmp_path / "out")
    assert ended.code == 3 and "pip install 'sam2core[video]'" in ended.err and not (tmp_path / "out").exists()
    ended = track(clip, "-p", "0:14,16", "-o", tmp_path / "out", "--write", "palette,rle", "--stop", "2")
    assert ended.code == 0, ended.err


def test_masks_at_the_videos_size_a_few_at_a_time(monkeypatch):
    logits = torch.randn(5, 12, 16)
    result = FrameResult(0, tuple("abcde"), logits, torch.ones(5), torch.ones(5), (HEIGHT, WIDTH))
    masks, numbers = split(result, list("edcba"))
    monkeypatch.setattr("sam2core.jobs.output.CHUNK", HEIGHT * WIDTH * 2)
    again = split(result, list("edcba"))
    np.testing.assert_array_equal(masks, again[0])
    np.testing.assert_array_equal(numbers, again[1])
    np.testing.assert_array_equal(masks, torch.stack(list(result.masks.values())).numpy())
    strongest = 5 - result.video_logits.argmax(0).numpy()
    np.testing.assert_array_equal(numbers, np.where(masks.any(0), strongest, 0))
    result.non_overlapping = True
    masks, _ = split(result, list("edcba"))
    np.testing.assert_array_equal(masks, torch.stack(list(result.masks.values())).numpy())


def test_where_a_run_goes_on():
    class Source:
        length = 8
        has = staticmethod(lambda frame: 0 <= frame < 8)

    for direction, first, route in (
        ("forward", 3, [3, 4, 5, 6, 7]),
        ("backward", 3, [3, 2, 1, 0]),
        ("backward", 0, [0]),
        ("both", 3, [3, 4, 5, 6, 7, 2, 1, 0]),
        ("both", 0, [0, 1, 2, 3, 4, 5, 6, 7]),
    ):
        for done, position in enumerate([None, *route]):
            ahead = []
            plan = Plan(direction, first)
            for start, stop, way in plan.ahead(position, Source()):
                ahead += range(start, -1, -1) if way == "backward" else range(start, stop or 8)
            assert ahead == route[done:], (direction, first, position)
            assert plan.behind(position, 8) == done


def test_an_object_is_named_once(tmp_path):
    prompts = Prompts()
    prompts.add("b", 3, "box", (1, 2, 3, 4))
    prompts.add("a", 0, "points", (1, 2, 1))
    prompts.add("b", 0, "points", (1, 2, 0))
    assert prompts.objects == ["b", "a"]


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"status": "stopped", "frames": 2}', "not JSON"])
def test_a_run_json_of_something_else_is_told(track, clip, tmp_path, text):
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(text)
    for options in ((), ("--resume",), ("--force",)):
        told = track(clip, "--point", "0:12,12", "-o", out, *options)
        assert told.code == 1 and "run.json is not one of this program's" in told.err, told.err
    assert (out / "run.json").read_text() == text


def test_an_overlay_keeps_the_times_of_a_clip_whose_rate_varies(track, tmp_path):
    av = pytest.importorskip("av", reason="films are an extra")
    times = [0, 40, 80, 400, 440, 1200, 1210, 2000]  # milliseconds

    def shown(path: Path) -> list[float]:
        with av.open(str(path)) as container:
            return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]

    with av.open(str(tmp_path / "vfr.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert shown(tmp_path / "vfr.mp4") == pytest.approx([time / 1000 for time in times], abs=1e-3)
    ended = track(tmp_path / "vfr.mp4", "-p", "0:14,16", "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    (overlay,) = (tmp_path / "out").rglob("overlay.mp4")
    assert shown(overlay) == pytest.approx([time / 1000 for time in times], abs=1e-3)
