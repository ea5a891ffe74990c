"""Images: masks tint what they cover and nothing else, prompts land where they were given. Files: whole, or none."""

import json
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sam2core.media.drawing import centre
from sam2core.media.render import (
    PALETTES,
    CutoutWriter,
    MaskWriter,
    PaletteWriter,
    RleFrames,
    RleWriter,
    VideoWriter,
    davis,
    overlay,
    palette,
)
from sam2core.ops import rle


@pytest.fixture
def photograph():
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


def disc(x, y, radius=12):
    grid = np.mgrid[:90, :120]
    return np.hypot(grid[0] - y, grid[1] - x) < radius


def test_a_mask_tints_its_inside_and_leaves_the_rest_alone(photograph):
    mask = disc(60, 45)
    drawn = overlay(photograph, [mask], colors=[(255, 0, 0)], opacity=0.5, contour=0)
    np.testing.assert_array_equal(drawn[~mask], photograph[~mask])
    np.testing.assert_allclose(drawn[mask], photograph[mask] * 0.5 + np.array([127.5, 0, 0]), atol=1)


def test_the_contour_runs_along_the_border(photograph):
    mask = disc(60, 45)
    drawn = overlay(photograph, [mask], colors=[(0, 0, 255)], opacity=0, contour=2)
    changed = (drawn != photograph).any(-1)
    assert changed.any()
    distance = abs(np.hypot(np.mgrid[:90, :120][0] - 45, np.mgrid[:90, :120][1] - 60) - 12)
    assert distance[changed].max() < 5
    assert changed[45, 71] or changed[45, 72]


def test_the_photograph_is_not_written_to(photograph):
    before = photograph.copy()
    overlay(photograph, [disc(5, 5)], points=[(10, 10)], boxes=[(1, 1, 30, 30)])
    np.testing.assert_array_equal(photograph, before)


def test_points_are_green_inside_and_red_outside():
    drawn = overlay(np.zeros((90, 120, 3), np.uint8), points=[(30, 40), (80, 40)], labels=[1, 0]).astype(int)
    assert drawn[40 - 2, 30 + 1, 1] > 100 > drawn[40 - 2, 30 + 1, 0]
    assert drawn[40 - 2, 80 + 1, 0] > 100 > drawn[40 - 2, 80 + 1, 1]
    assert not drawn[60:].any()


def test_what_lies_outside_is_clipped_without_complaint(photograph):
    overlay(photograph, points=[(-40, 5), (119.5, 89.5), (400, 400)], boxes=[(-10, -10, 500, 500)])


def test_edges_of_the_picture_and_empty_and_full_masks(photograph):
    drawn = overlay(photograph, [np.zeros((90, 120), bool)])
    np.testing.assert_array_equal(drawn, photograph)
    full = overlay(photograph, [np.ones((90, 120), bool)])
    assert (full != photograph).any(-1).mean() > 0.95
    assert overlay(photograph, [disc(0, 0)]).shape == photograph.shape


def test_grey_pictures_become_colour():
    assert overlay(np.zeros((90, 120), np.uint8), [disc(50, 50)]).shape == (90, 120, 3)


def test_the_palette_is_stable_and_distinct():
    assert (palette(30)[:3] == palette(3)).all()
    assert len({tuple(color) for color in palette(40).tolist()}) == 40


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"masks": [np.zeros((4, 4), bool)]}, "does not lie over"),
        ({"masks": [np.zeros((90, 120), bool)], "colors": [(1, 2, 3), (4, 5, 6)]}, "want colours of shape"),
        ({"points": [(1, 1), (2, 2)], "labels": [1]}, "as many labels"),
    ],
)
def test_what_does_not_fit_is_refused(photograph, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        overlay(photograph, **arguments)
    with pytest.raises(ValueError, match="uint8"):
        overlay(photograph.astype(np.float32))


def test_a_contour_is_the_same_however_large_the_mask():
    """Only tiles with a border in them are worked on: the line has no gaps where they meet."""
    image = np.full((300, 400, 3), 90, np.uint8)
    grid = np.mgrid[:300, :400]
    mask = np.hypot(grid[0] - 150, grid[1] - 200) < 120
    drawn = overlay(image, [mask], colors=[(0, 0, 255)], opacity=0, contour=3)
    on_the_line = abs(np.hypot(grid[0] - 150, grid[1] - 200) - 120) < 0.7
    assert (drawn[on_the_line] == (0, 0, 255)).mean() > 0.97
    far = abs(np.hypot(grid[0] - 150, grid[1] - 200) - 120) > 8
    np.testing.assert_array_equal(drawn[far], image[far])


def test_names_are_written_inside_their_masks():
    image = np.zeros((120, 200, 3), np.uint8)
    mask = np.zeros((120, 200), bool)
    mask[20:100, 110:190] = True
    drawn = overlay(image, [mask, np.zeros_like(mask)], names=["dog", "gone"], opacity=0, contour=0)
    rows, columns = np.nonzero(drawn.max(-1) > 150)
    assert rows.size > 30
    assert abs(rows.mean() - 60) < 6 and abs(columns.mean() - 150) < 6
    assert not np.array_equal(drawn, overlay(image, [mask], names=["cat"], opacity=0, contour=0))
    for name in ("日本", "a very long name that does not fit into the image at all, wherever it is put"):
        assert overlay(image, [mask], names=[name]).shape == image.shape
    with pytest.raises(ValueError, match="as many names"):
        overlay(image, [mask], names=[])


def test_the_centre_is_where_a_mask_is_widest():
    mask = np.zeros((90, 120), bool)
    mask[10:12, 2:110] = True
    mask[40:80, 60:100] = True
    x, y = centre(mask)
    assert 75 <= x <= 84 and 55 <= y <= 64
    assert centre(np.zeros((9, 9), bool)) is None
    for shape in ((600, 700), (1, 1), (1, 500)):
        thin = np.zeros(shape, bool)
        thin[shape[0] // 2, shape[1] // 2] = True
        assert centre(thin) == (shape[1] // 2, shape[0] // 2)


@pytest.mark.parametrize("name", PALETTES)
def test_every_palette_is_stable_and_distinct(name):
    assert (palette(30, name)[:3] == palette(3, name)).all()
    assert len({tuple(color) for color in palette(40, name).tolist()}) == 40
    assert palette(0, name).shape == (0, 3) and palette(300, name).shape == (300, 3)


def test_the_davis_table_is_that_of_davis():
    # from the colour table in the mask files of DAVIS 2017 and PASCAL VOC 2012
    assert davis()[:9].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128], [128, 128, 128],
        [64, 0, 0],
    ]  # fmt: skip
    assert davis()[20].tolist() == [0, 64, 128] and davis()[255].tolist() == [224, 224, 192]
    with pytest.raises(ValueError, match="palettes are bright, davis"):
        palette(3, "rainbow")


def frame(index, height=32, width=48):
    y, x = np.mgrid[:height, :width]
    return np.stack([np.full_like(x, 20 * index % 256), 5 * x % 256, 7 * y % 256], -1).astype(np.uint8)


def decode(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [(float(one.time), one.to_ndarray(format="rgb24")) for one in container.decode(video=0)]


@pytest.mark.parametrize("size", [(32, 48), (31, 47), (1, 1)])
def test_an_mp4_has_every_frame_at_its_time(tmp_path, size):
    pytest.importorskip("av")
    height, width = size
    with VideoWriter(tmp_path / "a.mp4", size, fps=10, quality=1) as video:
        for index in range(12):
            video.write(frame(index)[:height, :width])
        assert not (tmp_path / "a.mp4").exists()
    shown = decode(tmp_path / "a.mp4")
    assert [round(time, 3) for time, _ in shown] == [index / 10 for index in range(12)]
    for index, (_, picture) in enumerate(shown):
        assert picture.shape == (height + height % 2, width + width % 2, 3)
        difference = abs(picture[:height, :width].astype(int) - frame(index)[:height, :width])
        assert difference.mean() < 12  # colour has half the resolution
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    head = (tmp_path / "a.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")


def test_a_folder_may_be_called_like_a_time(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30").mkdir()
    with VideoWriter("12:30/film.mp4", (32, 32)) as film:
        film.write(np.zeros((32, 32, 3), np.uint8))
    assert (tmp_path / "12:30" / "film.mp4").stat().st_size


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_mp4_is_whole(tmp_path, interruption):
    pytest.importorskip("av")
    with pytest.raises(interruption), VideoWriter(tmp_path / "a.mp4", (32, 48), fps=30000 / 1001) as video:
        for index in range(5):
            video.write(frame(index))
        raise interruption
    assert len(decode(tmp_path / "a.mp4")) == 5


def test_frames_of_a_live_mp4_keep_their_times(tmp_path):
    pytest.importorskip("av")
    times = [0.0, 0.04, 0.5, 0.5, 2.25]  # two at once are told apart
    with VideoWriter(tmp_path / "a.mp4", (32, 48)) as video:
        for index, time in enumerate(times):
            video.write(frame(index), time=time)
    assert [time for time, _ in decode(tmp_path / "a.mp4")] == pytest.approx(times, abs=1e-3)


def test_an_mp4_without_frames_is_none(tmp_path):
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "a.mp4", (32, 48)) as video:
        with pytest.raises(ValueError, match="frames \\(32, 48, 3\\) of uint8"):
            video.write(frame(0)[:20])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="frames per second"):
        VideoWriter(tmp_path / "a.mp4", (32, 48), fps=0)


def test_mp4_without_pyav_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"sam2core\[video\]") as missing:
        VideoWriter(tmp_path / "a.mp4", (32, 48))
    assert missing.value.name == "av"


def test_palette_files_hold_numbers(tmp_path):
    numbers = np.array([[0, 1, 2], [3, 254, 255]])
    with PaletteWriter(tmp_path / "p") as files:
        files.write("00000", numbers)
        for wrong, complaint in ((numbers + 1, "8 bits"), (numbers - 1, "8 bits"), (numbers / 2, "integers")):
            with pytest.raises(ValueError, match=complaint):
                files.write("00001", wrong)
    read = Image.open(tmp_path / "p" / "00000.png")
    np.testing.assert_array_equal(np.asarray(read), numbers)
    np.testing.assert_array_equal(np.asarray(read.convert("RGB")), davis()[numbers])
    PaletteWriter(tmp_path / "p", colors=np.array([[9, 8, 7]])).write("00002", numbers)
    assert Image.open(tmp_path / "p" / "00002.png").convert("RGB").getpixel((1, 0)) == (9, 8, 7)


def test_masks_and_cutouts_have_a_folder_per_object(tmp_path):
    masks = [disc(30, 20), disc(90, 60)]
    photograph = np.random.default_rng(0).integers(1, 255, (90, 120, 3), dtype=np.uint8)
    with MaskWriter(tmp_path / "m", ["dog", 2]) as files, CutoutWriter(tmp_path / "c", ["dog", 2]) as cuts:
        files.write("00007", masks)
        cuts.write("00007", photograph, masks)
        with pytest.raises(ValueError, match="2 objects want as many masks, not 1"):
            files.write("00008", masks[:1])
        with pytest.raises(ValueError, match="cuts no frame"):
            cuts.write("00008", photograph[1:], masks)
    for name, mask in zip(("dog", "2"), masks):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m" / name / "00007.png")), 255 * mask)
        cut = np.asarray(Image.open(tmp_path / "c" / name / "00007.png"))
        np.testing.assert_array_equal(cut[..., 3], 255 * mask)
        np.testing.assert_array_equal(cut[..., :3], photograph * mask[..., None])
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    for word in ("", "..", "a/b", "a\\b", "x" * 101, "tab\t", "end. "):
        with pytest.raises(ValueError, match="cannot name a folder"):
            MaskWriter(tmp_path / "m", [word])


def test_a_png_is_whole_or_not_there(tmp_path, monkeypatch):
    def fail(self, path, **_):
        open(path, "wb").write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        PaletteWriter(tmp_path).write("00000", np.zeros((4, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def codes(writer, count, first=0):
    for index in range(first, first + count):
        masks = [disc(10 + index, 40), disc(60, 40 + index)]
        writer.write(index, f"{index:05d}", masks, iou=[0.9, 0.123456], object_score=[5.0, -1024.0])


def test_codes_are_json_and_read_one_frame_at_a_time(tmp_path):
    path = tmp_path / "masks.json"
    with RleWriter(path, (90, 120), ["dog", 2], video={"fps": 25.0}) as writer:
        assert len(writer.frames()) == 0
        codes(writer, 3)
        assert list(writer.frames()) == [0, 1, 2] and not path.exists()
        writer.write(9, "00009", [disc(3, 3)], iou=[1.0], object_score=[1.0], objects=[2])
    document = json.loads(path.read_text())
    assert document["format"] == "sam2core.masks.1" and document["complete"] is True
    assert document["video"] == {"height": 90, "width": 120, "fps": 25.0}
    assert document["objects"] == [{"number": 1, "id": "dog"}, {"number": 2, "id": "2"}]
    assert document["frames"]["1"]["objects"]["2"]["iou"] == 0.1235
    assert list(document["frames"]["9"]["objects"]) == ["2"]
    np.testing.assert_array_equal(rle.decode(document["frames"]["2"]["objects"]["dog"]["segmentation"]), disc(12, 40))
    frames = RleFrames(path)
    assert {number: frames[number] for number in frames} == {int(n): said for n, said in document["frames"].items()}
    with pytest.raises(KeyError):
        frames[5]
    with pytest.raises(ValueError, match="differ as text"):
        RleWriter(path, (90, 120), [1, "1"])


def test_codes_of_no_frame_are_json_too(tmp_path):
    with RleWriter(tmp_path / "masks.json", (90, 120), []):
        pass
    assert json.loads((tmp_path / "masks.json").read_text())["frames"] == {}


def test_interrupted_codes_are_json_and_can_be_gone_on_with(tmp_path):
    path = tmp_path / "masks.json"
    with RleWriter(tmp_path / "whole.json", (90, 120), ["a", "b"]) as writer:
        codes(writer, 5)
    with pytest.raises(KeyboardInterrupt), RleWriter(path, (90, 120), ["a", "b"]) as writer:
        codes(writer, 4)
        raise KeyboardInterrupt
    assert json.loads(path.read_text())["complete"] is False
    for kept in (0, 2, 4):
        before = path.read_bytes()
        with RleWriter(path, (90, 120), ["a", "b"], resume=kept) as writer:
            assert writer.count == kept and list(writer.frames()) == list(range(kept))
            assert path.read_bytes() == before
            codes(writer, 5 - kept, kept)
        assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    with pytest.raises(ValueError, match="has 5 frames, not the 6"):
        RleWriter(path, (90, 120), ["a", "b"], resume=6)


def test_codes_of_a_crash_lose_the_broken_line_only(tmp_path):
    path = tmp_path / "masks.json"
    writer = RleWriter(path, (90, 120), ["a", "b"])
    codes(writer, 3)
    writer._file.write(b',\n"3": {"name": "000')
    writer._file.close()
    assert list(RleFrames(path.with_name("masks.json.part"))) == [0, 1, 2]
    with RleWriter(path, (90, 120), ["a", "b"], resume=3) as writer:
        codes(writer, 2, 3)
    assert list(json.loads(path.read_text())["frames"]) == ["0", "1", "2", "3", "4"]


def test_writers_keep_no_frames(tmp_path):
    """Four times the frames take no more memory of ours; the encoder's own is steady too, seen over a long video."""
    pytest.importorskip("av")
    masks = [disc(60, 45), disc(20, 20)]

    def peak(count):
        tracemalloc.start()
        with (
            VideoWriter(tmp_path / "a.mp4", (90, 120)) as video,
            RleWriter(tmp_path / "a.json", (90, 120), ["a", "b"]) as text,
            PaletteWriter(tmp_path / "p") as numbers,
        ):
            for index in range(count):
                video.write(overlay(frame(index, 90, 120), masks, names=["a", "b"]))
                text.write(index, "x", masks, iou=[1, 1], object_score=[1, 1])
                numbers.write("x", masks[0])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(5)
    assert peak(160) < peak(40) + 2**16


def test_a_name_does_not_hide_under_a_click():
    image = np.full((200, 300, 3), 90, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[20:180, 40:260] = True
    named = overlay(image, [mask], names=["dog"], points=[centre(mask)], contour=0)
    plain = overlay(image, [mask], points=[centre(mask)], contour=0)
    rows = np.flatnonzero((named != plain).any((1, 2)))
    x, y = centre(mask)
    assert rows.size and rows.min() >= y + 4  # below the disc
    np.testing.assert_array_equal(named[y - 4 : y + 4, x - 4 : x + 4], plain[y - 4 : y + 4, x - 4 : x + 4])
    low = overlay(image[:24], [mask[10:34]], points=[[150, 12]], contour=0)
    assert (overlay(image[:24], [mask[10:34]], names=["x"], points=[[150, 12]], contour=0) == low).mean() > 0.5


def test_pictures_too_small_for_a_name_go_without():
    image, mask = np.full((24, 32, 3), 90, np.uint8), np.ones((24, 32), bool)
    np.testing.assert_array_equal(overlay(image, [mask], names=["a long name"]), overlay(image, [mask]))
    huge = np.full((1080, 1920, 3), 90, np.uint8)
    mask = np.ones((1080, 1920), bool)
    rows = np.flatnonzero(
        (overlay(huge, [mask], names=["dog"], contour=0) != overlay(huge, [mask], contour=0)).any((1, 2))
    )
    assert 25 < rows[-1] - rows[0] < 60  # letters grow with the image


@pytest.mark.parametrize("name", ["Müller", "猫", "Ünïcode 猫", "\N{GRINNING FACE}"])
def test_names_in_any_script_are_written(name):
    image, mask = np.full((300, 400, 3), 90, np.uint8), np.ones((300, 400), bool)
    assert (overlay(image, [mask], names=[name]) != overlay(image, [mask])).any()


def test_boxes_have_the_colours_they_are_given():
    image, box = np.full((300, 400, 3), 90, np.uint8), [[100, 100, 300, 200]]
    drawn = overlay(image, boxes=box, box_colors=[(1, 2, 250)])
    assert tuple(drawn[100, 200]) == (1, 2, 250)
    with pytest.raises(ValueError, match="1 boxes want as many colours, not 2"):
        overlay(image, boxes=box, box_colors=np.zeros((2, 3)))
