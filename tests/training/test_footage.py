"""Readers of footage give back what was written, lazily, and clips of it are changed all alike."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.data.coco import read as coco_instances
from sam2core.data.davis import read as palette_videos
from sam2core.data.documents import Documents
from sam2core.data.footage import Footage
from sam2core.data.pictures import DataError
from sam2core.data.sa1b import read as sa1b
from sam2core.data.sav import read as sav
from sam2core.ops import rle
from sam2core.training.augment import Mixture
from sam2core.training.clips import Clip, Pack, from_labels
from sam2core.training.filming import Filming, draw_frames, film, mosaic

PLAIN = Filming(
    reverse=0.0,
    late=0.0,
    flip=0.0,
    rotate=0.0,
    shear=0.0,
    jitter=(0.0,) * 3,
    jitter_frame=(0.0,) * 3,
    grey=0.0,
    mosaic=0.0,
)


def video(length: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, 40, 60, 3) of a brightness each, and ids (T, 40, 60): 1 from the start, 7 from frame 2 on."""
    ids = np.zeros((length, 40, 60), np.uint8)
    for t in range(length):
        ids[t, 5:25, 4 + 3 * t : 24 + 3 * t] = 1
        if t >= 2:
            ids[t, 20:38, 40:58] = 7
    frames = np.repeat(np.arange(length, dtype=np.uint8)[:, None, None, None] * 20 + 40, 3, 3)
    return np.broadcast_to(frames, (length, 40, 60, 3)).copy(), ids


@pytest.fixture
def davis(tmp_path):
    frames, ids = video()
    for folder in ("JPEGImages/a", "Annotations/a", "JPEGImages/b"):
        (tmp_path / folder).mkdir(parents=True)
    for t in range(5):
        Image.fromarray(frames[t]).save(tmp_path / "JPEGImages/a" / f"{t:05d}.png")
        Image.fromarray(frames[t]).save(tmp_path / "JPEGImages/b" / f"{t:05d}.jpg")
        Image.fromarray(ids[t]).save(tmp_path / "Annotations/a" / f"{t:05d}.png")
        for number, value in enumerate((1, 7)):
            (tmp_path / f"Annotations/b/{number:03d}").mkdir(parents=True, exist_ok=True)
            if (ids[t] == value).any():
                mask = Image.fromarray((ids[t] == value) * np.uint8(255))
                mask.save(tmp_path / f"Annotations/b/{number:03d}/{t:05d}.png")
    return tmp_path


def test_palette_folders_and_a_folder_per_object(davis):
    _, ids = video()
    palette, folders = palette_videos(davis)
    assert palette.length == folders.length == 5
    assert palette.objects(0) == [1] and palette.objects(3) == [1, 7]
    assert folders.objects(0) == [1] and folders.objects(3) == [1, 2]
    for t in range(5):
        expected = np.stack([ids[t] == 1, ids[t] == 7])
        assert (palette.masks(t, [1, 7]) == expected).all() and (folders.masks(t, [1, 2]) == expected).all()
    assert [int(picture[0, 0, 0]) for picture in palette.pictures([3, 1])] == [100, 60]


def test_videos_lie_where_evaluation_finds_them(davis, tmp_path):
    """DAVIS's resolutions and PUMaVOS's folder per video, without being told."""
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / "puma" / "a").mkdir(parents=True, exist_ok=True)
        (davis / name / "a").rename(tmp_path / "puma" / "a" / name)
        (davis / name).rename(tmp_path / "480p")
        (davis / name).mkdir()
        (tmp_path / "480p").rename(davis / name / "480p")
    (puma,) = palette_videos(tmp_path / "puma")
    assert puma.name == "a" and puma.length == 5
    (high,) = palette_videos(davis)
    (told,) = palette_videos(davis, images="JPEGImages/480p", labels="Annotations/480p")
    assert high.name == told.name == "b" and high.length == told.length == 5


def test_errors_name_the_file(davis):
    with pytest.raises(DataError, match=r"no folder .*Masks"):
        palette_videos(davis, labels="Masks")
    with pytest.raises(DataError, match=r"has no video c"):
        palette_videos(davis, videos=["c"])
    (davis / "Annotations/a/00009.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"labels of '00009', but .* no such frame"):
        palette_videos(davis, videos=["a"])
    (davis / "JPEGImages/a/00009.jpg").write_bytes(b"nothing")
    (damaged,) = palette_videos(davis, videos=["a"])
    with pytest.raises(DataError, match=r"cannot read image .*00009.jpg"):
        damaged.pictures([5])
    with pytest.raises(DataError, match=r"cannot read labels .*00009.png"):
        damaged.objects(5)


def test_sav_has_every_fourth_frame_labelled(tmp_path):
    frames, ids = video()
    (tmp_path / "v1").mkdir()
    for t in range(17):
        Image.fromarray(frames[t // 4] + np.uint8(t % 4)).save(tmp_path / "v1" / f"{t:05d}.png")
    masklet = [
        [rle.encode(one == 1), rle.encode(one == 7)] if (one == 7).any() else [rle.encode(one == 1)] for one in ids
    ]
    (tmp_path / "v1_manual.json").write_text(json.dumps({"masklet": masklet}))
    (footage,) = sav(tmp_path)
    assert footage.length == 5 and footage.objects(1) == [1] and footage.objects(2) == [1, 2]
    assert [int(picture[0, 0, 0]) for picture in footage.pictures([0, 3])] == [40, 100]
    assert (footage.masks(3, [2, 1]) == np.stack([ids[3] == 7, ids[3] == 1])).all()
    assert not footage.masks(0, [2]).any()
    with pytest.raises(DataError, match="no auto annotations"):
        sav(tmp_path, kind="auto")
    (tmp_path / "v2_manual.json").write_text("{")
    with pytest.raises(DataError, match=r"v2_manual.json has neither a folder v2 nor v2.mp4"):
        sav(tmp_path)


def coded_video(path: Path, frames: list[np.ndarray], *, codec: str = "mpeg4", every: int = 6) -> None:
    """Write an mp4 with a key frame every so many frames."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.codec_context.gop_size = every
        stream.codec_context.max_b_frames = 2
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_sav_reads_mp4s_from_the_key_frame_before(tmp_path):
    frames, ids = video()
    shown = [
        np.full((48, 64, 3), 10 * t, np.uint8) for t in range(17)
    ]  # 24 a second, of which every fourth is labelled
    (tmp_path / "sav_000").mkdir()
    coded_video(tmp_path / "sav_000" / "sav_000001.mp4", shown)
    masklet = [[rle.encode(np.pad(one == 1, ((0, 8), (0, 4))))] for one in ids]
    document = {"video_id": "sav_000001", "video_frame_count": 17, "masklet": masklet}
    (tmp_path / "sav_000" / "sav_000001_manual.json").write_text(json.dumps(document))
    (footage,) = sav(tmp_path)
    assert footage.length == 5
    for wanted in ([0, 1, 2, 3, 4], [4, 2], *([n] for n in range(5))):
        assert [int(picture.mean().round(-1)) for picture in footage.pictures(wanted)] == [40 * n for n in wanted]
    clip = film(footage, 3, np.random.default_rng(0), size=32, objects=1, min_area=0.0, filming=PLAIN)
    assert clip.frames.shape == (3, 32, 32, 3) and clip.masks.any((2, 3)).all()
    document["masklet"].append(masklet[0])
    (tmp_path / "sav_000" / "sav_000001_manual.json").write_text(json.dumps(document))
    (footage,) = sav(tmp_path)
    with pytest.raises(DataError, match=r"sav_000001.mp4 has 17 frames, asked for \[20\]"):
        footage.pictures([5])
    (tmp_path / "sav_000" / "sav_000001.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"cannot read video .*sav_000001.mp4"):
        footage.pictures([0])


def test_annotations_are_kept_for_a_while_and_damage_is_named(tmp_path):
    for number in range(3):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}_auto.json").write_text(json.dumps({"masklet": [[{"size": [4, 4], "counts": "x"}]]}))
    (tmp_path / "v2_auto.json").write_text('{"masklet": ')
    documents = Documents(most=1)
    for path in sorted(tmp_path.glob("v[01]_auto.json")) * 2:
        assert documents(path)["masklet"] and list(documents.held) == [path]
    damaged, other, cut = sav(tmp_path, kind="auto")
    with pytest.raises(DataError, match=r"a mask of .*v0_auto.json"):
        damaged.masks(0, [1])
    with pytest.raises(DataError, match=r"cannot read annotations .*v2_auto.json"):
        cut.objects(0)
    assert pickle.loads(pickle.dumps(other)).length == 1


def test_workers_elsewhere_get_readers_not_pictures(davis, tmp_path):
    """Where processes are not forked, all of a mixture goes through a pipe."""
    frames, ids = video()
    tree = {
        "images": [{"id": 3, "file_name": "00002.png", "height": 40, "width": 60}],
        "annotations": [{"image_id": 3, "segmentation": rle.encode(ids[2] == 7)}],
    }
    (davis / "coco.json").write_text(json.dumps(tree))
    (tmp_path / "sa").mkdir()
    Image.fromarray(frames[2]).save(tmp_path / "sa" / "sa_1.jpg")
    coded = {"segmentation": rle.encode(ids[2] == 1), "area": 400}
    (tmp_path / "sa" / "sa_1.json").write_text(json.dumps({"annotations": [coded]}))
    labelled = from_labels(np.repeat(frames[2], 8, 0), np.repeat(ids[2], 8, 0), instances=True)
    pack = Pack.write(tmp_path / "pack", iter([labelled] * 20))
    coco = coco_instances(davis, annotations="coco.json", images="JPEGImages/a")
    mixture = Mixture([palette_videos(davis), sa1b(tmp_path / "sa"), coco, pack], [1.0] * 4)
    sent = pickle.dumps(mixture)
    assert len(sent) < 20_000 < pack.pixels.nbytes
    other = pickle.loads(sent)
    for index in range(6):
        one, two = (each.sample(0, index, size=32, objects=1, min_area=0.0) for each in (mixture, other))
        assert (one.frames == two.frames).all() and (one.masks == two.masks).all()


def test_sa1b_and_coco_decode_what_is_asked_for(tmp_path):
    frames, ids = video()
    Image.fromarray(frames[2]).save(tmp_path / "sa_1.jpg")
    with pytest.raises(DataError, match=r"1 images .* no .json, the first is .*sa_1.jpg"):
        sa1b(tmp_path)
    annotations = [
        {"segmentation": rle.encode(ids[2] == value), "area": int((ids[2] == value).sum()), "predicted_iou": sure}
        for value, sure in ((1, 0.9), (7, 0.5), (0, 0.9))
    ]
    (tmp_path / "sa_1.json").write_text(json.dumps({"annotations": annotations}))
    assert sa1b(tmp_path, max_area=0.6)[0].objects(0) == [1, 2]  # the ground is too large
    (sure,) = sa1b(tmp_path, min_iou=0.8, max_area=0.6)
    assert sure.objects(0) == [1] and (sure.masks(0, [1])[0] == (ids[2] == 1)).all()

    tree = {
        "images": [{"id": 3, "file_name": "sa_1.jpg", "height": 40, "width": 60}, {"id": 4, "file_name": "none.jpg"}],
        "annotations": [
            {"image_id": 3, "segmentation": [[10, 5, 30, 5, 30, 25, 10, 25]], "iscrowd": 0},
            {"image_id": 3, "segmentation": rle.encode(ids[2] == 7), "iscrowd": 1},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    (plain,) = coco_instances(tmp_path, annotations="coco.json", images=".")
    assert plain.objects(0) == [1] and (plain.masks(0, [1])[0] == (ids[2] == 1)).all()
    (crowd,) = coco_instances(tmp_path, annotations="coco.json", images=".", crowds=True)
    assert (crowd.masks(0, [2])[0] == (ids[2] == 7)).all()


def test_clips_take_frames_in_a_row_and_late_objects(davis):
    footage, draw = palette_videos(davis)[0], np.random.default_rng(0)
    starts, late = set(), 0
    for _ in range(30):
        clip = film(footage, 3, draw, size=32, objects=3, min_area=0.0, filming=PLAIN)
        assert clip.frames.shape == (3, 32, 32, 3) and np.diff(clip.frames[:, 0, 0, 0].astype(int)).tolist() == [20, 20]
        starts.add(int(clip.frames[0, 0, 0, 0]))
        more = film(footage, 3, draw, size=32, objects=3, min_area=0.0, filming=Filming(late=1.0, mosaic=0.0))
        late += bool((more.masks.any((2, 3))[0] != more.masks.any((2, 3))[-1]).any())
    assert starts == {40, 60, 80} and late > 5
    assert draw_frames(3, 6, draw, PLAIN) == [0, 1, 2, 1, 0, 1] and draw_frames(1, 3, draw, PLAIN) == [0, 0, 0]
    wide = {tuple(draw_frames(20, 3, draw, Filming(stride=3, reverse=1.0))) for _ in range(200)}
    assert {a - b for a, b, _ in wide} == {1, 2, 3} and all(a - b == b - c for a, b, c in wide)


def test_all_frames_are_changed_alike():
    class Twice(Footage):
        def __init__(self):
            super().__init__("twice", (Path("a"), Path("b")))

        def pictures(self, frames):
            return [video()[0][3] * (np.arange(60) > 20)[None, :, None].astype(np.uint8) for _ in frames]

        def objects(self, frame):
            return [1]

        def masks(self, frame, ids):
            return video()[1][3][None] == 1

    draw = np.random.default_rng(1)
    for _ in range(10):
        clip = film(Twice(), 2, draw, size=64, objects=1, min_area=0.0, filming=Filming(jitter_frame=(0.0,) * 3))
        assert (clip.frames[0] == clip.frames[1]).all() and (clip.masks[0] == clip.masks[1]).all() and clip.masks.any()


def test_a_mosaic_keeps_the_objects_of_one_quarter():
    masks = np.zeros((2, 1, 32, 32), bool)
    masks[:, :, 4:20, 6:20] = True
    clip = mosaic(Clip(masks[:, 0, ..., None].repeat(3, -1) * np.uint8(200), masks), np.random.default_rng(0))
    assert clip.frames.shape == (2, 32, 32, 3)
    assert (clip.frames[..., 0] > 0).sum() == 4 * clip.masks.sum() == 4 * 2 * 8 * 7


def test_a_mixture_draws_from_footage_and_sets_pictures_in_motion(davis):
    frames, ids = video()
    Image.fromarray(frames[2]).save(davis / "sa_1.jpg")
    coded = [{"segmentation": rle.encode(ids[2] == 1), "area": 400}]
    (davis / "sa_1.json").write_text(json.dumps({"annotations": coded}))
    (davis / "one").mkdir()
    for name in ("sa_1.jpg", "sa_1.json"):
        (davis / name).rename(davis / "one" / name)
    mixture = Mixture([palette_videos(davis), sa1b(davis / "one")], [0.5, 0.5])
    sources = set()
    for index in range(20):
        for length in (1, 3):
            clip = mixture.sample(0, index, size=32, objects=2, frames=length)
            assert clip.frames.shape == (length, 32, 32, 3) and clip.masks.shape[0] == length
            assert 1 <= clip.masks.shape[1] <= 2
            sources.add(clip.source.rpartition("/")[2])
    assert sources == {"a", "b", "sa_1.jpg"}
