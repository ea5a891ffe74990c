"""What runs have found, read as labelled footage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.jobs import found
from sam2core.ops import rle
from sam2core.storage import FileError


def squares(*corners: int) -> list[np.ndarray]:
    masks = []
    for at in corners:
        mask = np.zeros((8, 10), bool)
        mask[at : at + 3, at : at + 3] = True
        masks.append(mask)
    return masks


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(tmp_path / name)
    return [tmp_path / "0.png", tmp_path / "1.png"]


def test_the_best_masks_of_pictures_are_read_when_they_are_asked_for(files: list[Path], tmp_path: Path) -> None:
    first, second = squares(0, 4)
    masks = [
        {"segmentation": rle.encode(first), "area": 9, "category": "cat", "rank": 0},
        {"segmentation": rle.encode(second), "area": 9, "rank": 1},  # another candidate for the same
        {"segmentation": rle.encode(np.zeros((8, 10), bool)), "area": 0},
        {"segmentation": rle.encode(second), "area": 9},
    ]
    document = tmp_path / "0.json"
    document.write_text(json.dumps({"image": {"path": str(files[0]), "height": 8, "width": 10}, "masks": masks}))
    seen = found.FoundPictures([document, tmp_path / "later.json"], ["zero", "one"])
    assert len(seen) == 2
    (item,) = seen[:1]
    assert item.name == "zero.png" and item.still and item.classes == {1: "cat"} and item.objects(0) == [1, 3]
    for number, mask in ((1, first), (3, second)):
        np.testing.assert_array_equal(item.masks(0, [number])[0], mask)
    with pytest.raises((OSError, FileError)):
        seen[1]
    (tmp_path / "later.json").write_text("{")
    with pytest.raises(FileError, match="later.json"):
        seen[1]


def test_a_clip_has_its_objects_on_the_frames_where_they_were_seen(files: list[Path], tmp_path: Path) -> None:
    first, second = squares(1, 5)

    def one(mask: np.ndarray, score: float = 1.0) -> dict:
        return {"segmentation": rle.encode(mask), "object_score": score}

    frames = {0: {"objects": {"ball": one(first)}}, 1: {"objects": {"ball": one(first, -2.0), "dog": one(second)}}}
    item = found.clip(str(tmp_path), frames, ["ball", "dog"], {"dog": "animal"})  # type: ignore[arg-type]
    assert item.labelled == [0, 1] and item.classes == {2: "animal"} and not item.still and item.name == tmp_path.name
    assert item.objects(0) == [1] and item.objects(1) == [2]
    np.testing.assert_array_equal(item.masks(1, [2])[0], second)
