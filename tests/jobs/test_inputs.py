"""Which files words name, and what the results of each are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2core.jobs.folder import AUTOMASK, DOCUMENT, DRAWN, EARLIER
from sam2core.jobs.inputs import clips, is_pattern, named, pictures


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/10.png", "in/9.png", "in/.hidden.png", "in/note.txt", "other/9.png", "a/b/x.mp4", "a/y.mp4"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file)
        else:
            file.write_bytes(b"")
    return tmp_path


def test_files_folders_and_patterns_name_each_picture_once_in_order(place: Path) -> None:
    found = pictures(["in", "in/[19]*.png", "other/9.png", str(place / "in" / "9.png")])
    assert [file.absolute() for file in found] == [place / name for name in ("in/9.png", "in/10.png", "other/9.png")]
    (place / "odd[1].png").write_bytes((place / "in" / "9.png").read_bytes())
    assert not is_pattern("odd[1].png") and pictures(["odd[1].png"]) == [Path("odd[1].png")], "a name, no pattern"
    for words, error, said in (
        (["a"], ValueError, "a holds no image"),
        (["gone*.png"], ValueError, "nothing matches gone"),
        (["gone.png"], OSError, "gone.png: no such file"),
    ):
        with pytest.raises(error, match=said):
            pictures(words)


@pytest.mark.parametrize(
    ("document", "drawn"), [(DOCUMENT, DRAWN[0]), (DOCUMENT + ".part", DRAWN[1]), (".json", EARLIER[0])]
)
def test_what_an_earlier_run_drew_is_no_picture_to_look_at(place: Path, document: str, drawn: str) -> None:
    picture = place / "in" / f"9{drawn}"
    picture.write_bytes((place / "in" / "9.png").read_bytes())
    names = {file.name for file in pictures(["in"])}
    assert names == {"9.png", "10.png", picture.name}, "a picture of the user's own"
    (place / "in" / f"9{document}").write_text(json.dumps({"format": AUTOMASK, "masks": []}))
    for words in (["in"], ["in/*.png"]):
        assert {file.name for file in pictures(words)} == {"9.png", "10.png"}


def test_clips_are_files_folders_addresses_and_patterns(place: Path) -> None:
    assert clips(["in", "a/**/*.mp4", "a/y.mp4", "rtsp://camera/1?x=*"]) == [
        "in",
        *sorted(["a/b/x.mp4", "a/y.mp4"]),
        "rtsp://camera/1?x=*",
    ]
    assert clips(["in/*.png"]) == ["in/*.png"], "the frames of one clip"
    with pytest.raises(ValueError, match=r"in/9\.png is an image, no video"):
        clips(["in/9.png", "a/y.mp4"])


def test_no_two_results_have_one_name() -> None:
    files = [Path(name) for name in ("in/a.png", "in/b.png", "in/b.jpg", "x/c.png", "y/C.PNG")]
    assert [name for _, name in named(files)] == ["a", "b.png", "b.jpg", "x_c.png", "y_C.PNG"]
