"""One order and one idea of what is hidden, for every reader of folders."""

from __future__ import annotations

from pathlib import Path

from sam2core.media.listing import hidden, is_picture, listed, natural, pictures_in


def test_numbers_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    names = ["frame10.png", "frame2.PNG", "frame0.png", "Frame1.png", "frame011.png"]
    others = ["._frame0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", ".hidden.png"]
    for name in names + others:
        (tmp_path / name).write_bytes(b"x")
    for folder in ("__MACOSX", ".trash", "sub10", "sub9"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"x")
    ordered = ["frame0.png", "Frame1.png", "frame2.PNG", "frame10.png", "frame011.png"]
    assert [path.name for path in pictures_in(tmp_path)] == ordered
    assert [path.name for path in listed(tmp_path)] == [*ordered, "notes.txt", "sub9", "sub10"]
    assert [path.name for path in listed(tmp_path, (".txt",))] == ["notes.txt"]
    deep = [path.relative_to(tmp_path).as_posix() for path in pictures_in(tmp_path, deep=True)]
    assert deep == [*ordered, "sub9/a.png", "sub10/a.png"]
    assert all(hidden(tmp_path / name) != (name == "notes.txt") for name in others)
    assert is_picture(tmp_path / "frame2.PNG") and not is_picture(tmp_path / "._frame0.png")


def test_the_order_is_one_for_all_names() -> None:
    assert sorted(["b1", "a10", "A2", "a02", "10", "9"], key=natural) == ["9", "10", "A2", "a02", "a10", "b1"]
