"""Files are written whole or not at all, read within limits, and named inside one folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam2core import storage
from sam2core.storage import DiskError, FileError


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "m.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), storage.writing(path, force=True) as part:
        part.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_nothing_is_replaced_unasked(tmp_path):
    path = tmp_path / "m.txt"
    storage.write_text(path, "ä\n")
    with pytest.raises(FileError, match="there already"):
        storage.write_text(path, "new")
    assert path.read_bytes() == "ä\n".encode()
    storage.write_text(path, "new", force=True)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "a" / "b", "no folder"),
    ):
        with pytest.raises(FileError, match=message), storage.writing(path, force=True):
            raise AssertionError


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names))[1])
    storage.write_text(tmp_path / "m.txt", "text")
    assert order == ["sync", "rename", "sync"]
    order.clear()
    (tmp_path / "video.part" / "palette").mkdir(parents=True)
    for name in ("a.txt", "palette/0.png"):
        (tmp_path / "video.part" / name).write_text("x")
    storage.finish(tmp_path / "video.part", tmp_path / "video")
    assert order == ["sync", "sync", "rename", "sync"] and (tmp_path / "video" / "palette" / "0.png").exists()


DIES = """
import os, sys
from sam2core import storage
with storage.writing(sys.argv[1], force=True) as part:
    part.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_what_dead_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path):
    path = tmp_path / "m.txt"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", DIES, path], check=False)
    assert len(list(tmp_path.iterdir())) == 1  # the second removed what the first left
    with storage.writing(path) as mine:
        with storage.writing(tmp_path / "m.text") as other:
            other.write_text("2")
        storage.write_text(path, "1")
        assert mine.exists()
        os.truncate(path, 0)
        path.unlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.text", "m.txt"]


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "is full: .* are free"), (errno.EACCES, "may not be written to")]
)
def test_a_disk_that_takes_nothing_is_named(tmp_path, monkeypatch, number, message):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskError, match=f"{tmp_path} {message}"):
        storage.write_text(tmp_path / "m.txt", "text")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_while_writing_is_named(tmp_path):
    with pytest.raises(DiskError, match=f"the disk of {tmp_path} is full"), storage.writing(tmp_path / "m") as part:
        part.unlink()
        part.symlink_to("/dev/full")
        part.write_bytes(b"0" * 100_000)


def test_an_error_of_another_place_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(PermissionError), storage.disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "no", str(tmp_path / "in" / "picture.png"))


def test_a_folder_that_cannot_be_written_to_is_noticed_at_once(tmp_path, monkeypatch):
    storage.check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="a file stands in its place"):
        storage.check_writable(tmp_path / "file" / "out")

    def closed(self, data):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_bytes", closed)
    with pytest.raises(DiskError, match=f"{tmp_path} may not be written to: permission denied"):
        storage.check_writable(tmp_path)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "big").write_bytes(bytes(2000))
    for name, message in (
        ("pipe", "is a pipe"),
        ("zero", "is a device"),
        (".", "is a folder"),
        ("loop", "cannot be looked at"),
        ("none", "no such file"),
        ("big/none", "no such file"),
        ("x" * 300, "cannot be looked at"),
        ("a\0b", "cannot be looked at"),
        ("big", "has 2.0 kB; at most 1.0 kB are read"),
    ):
        with pytest.raises(FileError, match=message):
            storage.regular_file(tmp_path / name, limit=1000)
    (tmp_path / "link").symlink_to(tmp_path / "big")
    assert storage.regular_file(tmp_path / "link") == tmp_path / "link"


def test_json_is_read_with_a_mark_and_refused_with_its_name(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"key": "ä"}).encode())
    assert storage.read_json(file) == {"key": "ä"}
    for content, message in (
        (b"{", "a.json is no JSON"),
        (b"", "a.json is no JSON"),
        ("ä".encode("latin1"), "a.json is no text in UTF-8"),
        (b"[" * 100_000, "a.json is nested too deeply"),
        (b"1" * 5000, "a.json is no JSON that can be read: Exceeds the limit"),
    ):
        file.write_bytes(content)
        with pytest.raises(FileError, match=message):
            storage.read_json(file)
    with pytest.raises(FileError, match="at most 10 bytes are read"):
        storage.read_json(file, limit=10)


def test_an_entry_is_named_with_its_file():
    tree = {"images": None, "id": True, "width": 3}
    assert storage.json_entry(tree, "width", int, "a.json") == 3
    for key, kinds, message in (
        ("images", list, "a.json: 'images' is a list; got null"),
        ("id", (int, str), "a.json: 'id' is a whole number or a text; got true"),
        ("height", int, "a.json: the key 'height' is missing; there are 'images', 'id', 'width'"),
    ):
        with pytest.raises(FileError, match=message):
            storage.json_entry(tree, key, kinds, "a.json")
    with pytest.raises(FileError, match="wanted a mapping with the key 'id'; got list"):
        storage.json_entry([], "id", int, "a.json")


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "..",
        "C:\\x",
        "C:x",
        "a\\b",
        "~/x",
        "~root",
        "a\0b",
        "a\nb",
        "a\ud800",
        "",
        ".",
        "./",
        3,
    ]
    + [None, "x" * 256, "a/" + "ä" * 200],
)
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, text):
    with pytest.raises(FileError, match="^a.json: 'file': "):
        storage.inside(tmp_path, text, "a.json: 'file'")


@pytest.mark.parametrize("text", ["a.png", "a/b.png", "./a.png", "a..b", "..a", "ä ö.png", "ab:c", "a~", "日本/語.png"])
def test_a_name_inside_a_folder_is_taken(tmp_path, text):
    assert storage.inside(tmp_path, text, "x") == tmp_path / text


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "ftp://a/b",
        "http:///x",
        "a/b",
        "",
        "http://[::1",
        "http://a b/",
        "http://a/\n",
        "http://a:x/",
    ]
    + ["data:,x", "HTTP://", 3, "http://a:99999/", "http://a:0/"],
)
def test_only_the_web_is_asked(text):
    with pytest.raises(FileError, match="^a.yaml: url: "):
        storage.web_address(text, "a.yaml: url")


def test_addresses_of_the_web_are_taken():
    for text in ("http://127.0.0.1:8000/a", "https://example.org/a?b=c", "HTTPS://example.org"):
        assert storage.web_address(text, "url") == text
