"""Weights and servers that mean harm, or are broken: one message with the file's name, within bounds."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from sam2core.checkpoints import download as module
from sam2core.checkpoints import files, hub
from sam2core.checkpoints.files import FileError


def test_every_flipped_byte_of_a_pt_is_noticed(tmp_path: Path) -> None:
    state = {"a": torch.randn(40, 40), "b": torch.arange(9.0)}
    whole = files.write_pt(tmp_path / "w.pt", state).read_bytes()
    for seed in range(30):
        chance, content = random.Random(seed), bytearray(whole)
        for _ in range(20):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (tmp_path / "w.pt").write_bytes(content)
        try:
            again, _ = files.read(tmp_path / "w.pt")
        except FileError as error:
            assert "w.pt" in str(error)
        else:  # what no checksum covers: padding and times in the zip
            assert all(torch.equal(again[name], state[name]) for name in state)


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


LIMITED = """
import json, resource, sys
from sam2core.checkpoints import files
import torch
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
said = {}
for path in sys.argv[1:]:
    try:
        files.read(path)
    except files.FileError as error:
        said[path] = str(error)
print(json.dumps(said))
"""


def test_what_would_take_all_memory_or_never_end_is_refused(tmp_path: Path) -> None:
    wanted = {
        "deflated.pt": "is compressed or locked",
        "bytearray.pt": "more than tensors and plain values",
        "pickle.pt": "its pickle has .*; at most 16.8 MB are read",
        "views.pt": "its tensors claim .* may claim",
        "deep.pt": "",
        "zero.pt": "is a device",
        "pipe.pt": "is a pipe",
        "header.safetensors": "header has .*; at most 16.8 MB are read",
    }
    for name, more, how in (("deflated", 20_000_000, zipfile.ZIP_DEFLATED), ("pickle", 17 << 20, zipfile.ZIP_STORED)):
        path = files.write_pt(tmp_path / f"{name}.pt", {"a": torch.zeros(4)})
        repacked(path, lambda name, old, more=more: old + bytes(more if name.endswith("pkl") else 0), how)  # type: ignore[misc]
    (tmp_path / "bytearray.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
    torch.save({"a": torch.zeros(1).expand(1_000_000_000)}, tmp_path / "views.pt")
    (tmp_path / "deep.pt").write_bytes(b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".")
    (tmp_path / "header.safetensors").write_bytes((17 << 20).to_bytes(8, "little") + b" " * (17 << 20))
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.pt")
    paths = [str(tmp_path / name) for name in wanted]
    run = subprocess.run([sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-1500:]
    said = json.loads(run.stdout)
    for path, words in zip(paths, wanted.values(), strict=True):
        assert re.search(words, said[path]) and Path(path).name in said[path], said[path]


def test_a_folder_and_an_index_of_shards_are_read(tmp_path: Path) -> None:
    state = {name: torch.full((2,), float(number)) for number, name in enumerate("abcd")}
    files.write(tmp_path / "one.safetensors", {name: state[name] for name in "ab"})
    files.write(tmp_path / "two.safetensors", {name: state[name] for name in "cd"})
    places = {"a": "one", "b": "one", "c": "two", "d": "two"}
    index = tmp_path / "model.safetensors.index.json"

    def names(**changes: str) -> None:
        index.write_text(json.dumps({"weight_map": {n: f"{p}.safetensors" for n, p in (places | changes).items()}}))

    names()
    for path in (tmp_path, index):
        read, _ = files.read(path)
        assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)
    for changes, words in (
        ({"a": "../one"}, "leaves its folder"),
        ({"a": "three"}, "1 of 3 files are not beside it"),
        ({"a": "two"}, "says that a is in two.safetensors, and it is not there"),
    ):
        names(**changes)
        with pytest.raises(FileError, match=f"index.json.*{words}"):
            files.read(tmp_path)
    index.write_text('{"weight_map": null}')
    with pytest.raises(FileError, match="'weight_map' is a mapping; got null"):
        files.read(index)
    files.write(tmp_path / "model.safetensors", state)
    assert files.read(tmp_path)[0].keys() == state.keys()


# ------------------------------------------------------------------------------------------------ servers


class Hostile(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour = ""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        how = type(self).behaviour
        self.send_response(302 if how.startswith("to ") else 200)
        if how.startswith("to "):
            self.send_header("Location", how.removeprefix("to "))
            self.send_header("Content-Length", "0")
        elif how == "no length":
            self.send_header("Content-Length", "abc")
        elif how == "huge":
            self.send_header("Content-Length", str(1 << 50))
        elif how == "page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", "6")
        elif how == "page unsaid":
            self.send_header("Content-Length", "15")
        elif how == "announces":
            self.send_header("Content-Length", "5000")
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            if how == "page":
                self.wfile.write(b"<html>")
            elif how == "page unsaid":
                self.wfile.write(b"<!DOCTYPE html>")
            while how in ("endless", "drip"):
                self.wfile.write(b"0" * (1 << 16) if how == "endless" else b"0")
                self.wfile.flush()
                if how == "drip":
                    time.sleep(0.05)
        except OSError:  # the other side had enough
            return


@pytest.fixture
def hostile() -> Iterator[Callable[[str], str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hostile,), {}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def behave(how: str) -> str:
        server.RequestHandlerClass.behaviour = how  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{server.server_port}/w.pt"

    yield behave
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("how", "size", "words"),
    [
        ("endless", 1000, "more than the 1000 bytes arrived"),
        ("endless", None, "more than the 3000000 bytes arrived"),
        ("drip", None, "too slow to wait for"),
        ("no length", 1000, "says that 'abc' bytes come"),
        ("huge", None, "announces .* are taken"),
        ("announces", 1000, "announces 5000 bytes, wanted 1000"),
        ("page", None, "a page of HTML, not weights"),
        ("page unsaid", None, "no whole torch file"),
        ("to file:///etc/passwd", None, "redirection|HTTP Error 302|not allowed"),
        ("to ftp://127.0.0.1/x", None, "unknown url type|redirection|HTTP Error 302"),
    ],
)
def test_a_server_that_means_harm_leaves_nothing(
    tmp_path: Path,
    hostile: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    size: int | None,
    words: str,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    monkeypatch.setattr(module, "LIMIT", 3_000_000)
    with pytest.raises((FileError, OSError), match=words):
        hub.download(hostile(how), tmp_path / "w.pt", size=size)
    left = [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
    assert left == [] or how == "drip"  # of a slow server's file, the part is kept to go on with
    assert not (tmp_path / "w.pt").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "/etc/passwd"])
def test_only_the_web_is_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(FileError, match="is no address"):
        hub.download(url, tmp_path / "w.pt")
    assert not list(tmp_path.iterdir())


def test_a_name_leads_nowhere_but_into_the_cache(tmp_path: Path) -> None:
    for name in ("/etc/passwd", "../x", "a\\b"):
        with pytest.raises(FileError, match="is no name inside a folder"):
            hub.locate(hub.Source(name, url="http://127.0.0.1:9/x"), cache_dir=tmp_path, offline=True)
