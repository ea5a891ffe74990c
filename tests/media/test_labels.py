"""Label images and drawn masks: one reader, that says what it found when it cannot tell what is meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.media.files import TURNS, turned
from sam2core.media.labels import align_labels, panoptic_ids, read_labels, read_mask, split_choice
from sam2core.media.palettes import davis


def mask() -> np.ndarray:
    inside = np.zeros((9, 14), dtype=bool)
    inside[2:6, 3:9] = True
    return inside


def objects() -> np.ndarray:
    ids = mask().astype(np.uint8)
    ids[2:6, 7:9] = 2
    return ids


def paletted(ids: np.ndarray) -> Image.Image:
    picture = Image.fromarray(ids)
    picture.putpalette(davis().tobytes())
    return picture


def drawn() -> dict[str, Image.Image]:
    """One and the same object, as people save it."""
    inside, bytes_ = mask(), mask().astype(np.uint8)
    red = davis()[bytes_]
    clear = np.dstack([np.full((*inside.shape, 3), 255, np.uint8), bytes_ * 255])
    soft = Image.fromarray(bytes_ * 255).resize((70, 45)).resize((14, 9), Image.Resampling.BILINEAR)
    return {
        "0 and 1": Image.fromarray(bytes_),
        "0 and 255": Image.fromarray(bytes_ * 255),
        "0 and 38": Image.fromarray(bytes_ * 38),
        "one bit": Image.fromarray(inside),
        "palette": paletted(bytes_),
        "colours of DAVIS": Image.fromarray(red),
        "another colour": Image.fromarray(bytes_[..., None] * np.array([7, 200, 9], np.uint8)),
        "white as colours": Image.fromarray(np.repeat(bytes_[..., None] * np.uint8(255), 3, 2)),
        "transparency": Image.fromarray(clear),
        "white and opaque": Image.fromarray(
            np.dstack([np.repeat(bytes_[..., None] * np.uint8(255), 3, 2), 255 + 0 * bytes_])
        ),
        "16 bits, one": Image.fromarray(inside.astype(np.uint16)),
        "16 bits, full": Image.fromarray(inside.astype(np.uint16) * 65535),
        "soft edges": soft,
    }


@pytest.mark.parametrize("kind", drawn())
def test_a_drawn_mask_is_the_same_however_it_was_saved(kind: str, tmp_path: Path) -> None:
    drawn()[kind].save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask())


def test_lossy_masks_are_taken_at_half_of_full(tmp_path: Path) -> None:
    large = np.kron(mask(), np.ones((8, 8), bool))
    for name in ("m.jpg", "m.webp"):
        Image.fromarray(np.repeat(large[..., None] * np.uint8(255), 3, 2)).save(tmp_path / name, quality=80)
        assert np.array_equal(read_mask(tmp_path / name), large)


@pytest.mark.parametrize("orientation", TURNS)
def test_masks_and_labels_are_turned_as_displayed(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    for picture, ids in (
        (paletted(objects()), objects()),
        (Image.fromarray(objects().astype(np.uint16) * 900), objects() * 900.0),
    ):
        picture.save(tmp_path / "m.png", exif=exif)
        assert np.array_equal(read_labels(tmp_path / "m.png"), turned(ids, orientation))
    assert np.array_equal(read_mask(tmp_path / "m.png", 900), turned(objects() == 1, orientation))


def test_one_of_several_is_chosen_and_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    for picture, names in (
        (paletted(objects()), ("1", "2")),
        (Image.fromarray(objects() * np.uint8(40)), ("40", "80")),
        (Image.fromarray(objects() * np.uint16(1000)), ("1000", "2000")),
        (Image.fromarray(davis()[objects()]), ("1", "2")),
        (Image.fromarray(davis()[objects()]), ("#800000", "#008000")),
        (Image.fromarray(objects()[..., None] * np.array([100, 50, 9], np.uint8)), ("#643209", "#C86412")),
    ):
        picture.save(path)
        with pytest.raises(ValueError, match=r"m\.png.* holds 2 objects.*@ID"):
            read_mask(path)
        for number, name in enumerate(names, 1):
            assert np.array_equal(read_mask(path, name), objects() == number)
        with pytest.raises(ValueError, match=rf"no object 77; it holds .*{names[0].lower()}.*{names[1].lower()}"):
            read_mask(path, "77")


def test_empty_and_full_masks_say_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    for picture in (
        Image.new("L", (9, 7)),
        Image.new("RGB", (9, 7)),
        Image.new("P", (9, 7)),
        Image.new("I;16", (9, 7)),
    ):
        picture.save(path)
        with pytest.raises(ValueError, match=r"m\.png' is empty: it holds only 0"):
            read_mask(path)
    Image.new("L", (9, 7), 3).save(path)
    with pytest.raises(ValueError, match=r"m\.png' covers the whole image: every pixel is 3"):
        read_mask(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"m\.png' has \d+ colours"):
        read_mask(path)


def test_a_choice_stands_behind_the_name(tmp_path: Path) -> None:
    assert split_choice("a/b.png") == ("a/b.png", None)
    assert split_choice("a/b.png@3") == ("a/b.png", "3")
    assert split_choice("b.png@#800000") == ("b.png", "#800000")
    assert split_choice("me@home/b.png") == ("me@home/b.png", None)
    odd = tmp_path / "b@2.png"
    odd.write_bytes(b"")
    assert split_choice(str(odd)) == (str(odd), None)


def test_colours_are_labels_only_where_their_meaning_is_said(tmp_path: Path) -> None:
    path = tmp_path / "l.png"
    ids = objects().astype(np.int64) * 70_001
    Image.fromarray((ids[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"l\.png' is a colour image"):
        read_labels(path)
    assert np.array_equal(panoptic_ids(np.asarray(Image.open(path))), ids)
    Image.fromarray(np.repeat(objects()[..., None], 3, 2)).save(path)
    assert np.array_equal(read_labels(path), objects())


def test_labels_drawn_on_stored_pixels_are_turned_with_their_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (14, 9)).save(tmp_path / "p.jpg", exif=exif)
    shown = turned(objects(), 6)
    assert np.array_equal(align_labels(objects(), tmp_path / "p.jpg"), shown)
    assert np.array_equal(align_labels(shown, tmp_path / "p.jpg"), shown)
    with pytest.raises(ValueError, match=r"labels of 5x5 lie on .*p\.jpg' of 9x14"):
        align_labels(objects()[:5, :5], tmp_path / "p.jpg")
