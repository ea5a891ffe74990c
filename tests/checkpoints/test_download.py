"""Files come whole or not at all: resumed, checked, locked, from servers that are broken or mean harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sam2core.checkpoints import download as module
from sam2core.checkpoints import hub
from sam2core.checkpoints.download import download
from sam2core.checkpoints.files import FileError
from tests.checkpoints.made import CONTENT, SHA, left


@pytest.fixture
def url(server):
    server.files["/w.pt"] = CONTENT
    return server.address + "/w.pt"


def fetch(url, tmp_path, **changes):
    return download(url, tmp_path / "w.pt", **({"size": len(CONTENT), "sha256": SHA} | changes))


def test_a_file_arrives_whole_and_is_not_asked_for_twice(server, url, tmp_path):
    seen = []
    path = fetch(url, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert fetch(url, tmp_path) == path
    assert len(server.gets()) == 1
    assert left(tmp_path) == ["w.pt"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, url, tmp_path):
    server.cuts = [100_000, 50_000]
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert [part for _, part in server.gets()] == [None, "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_download_is_resumed_by_the_next_one(server, url, tmp_path):
    server.cuts = [100_000, 0, 0]
    with pytest.raises((FileError, OSError), match="100000 bytes"):
        fetch(url, tmp_path)
    assert not (tmp_path / "w.pt").exists() and (tmp_path / "w.pt.part").stat().st_size == 100_000
    server.cuts, server.asked = [], []
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.gets() == [("/w.pt", "bytes=100000-")]
    assert left(tmp_path) == ["w.pt"]


def test_a_server_without_ranges_sends_it_all_again(server, url, tmp_path):
    server.ranges = False
    server.cuts = [100_000]
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old_part(server, url, tmp_path):
    server.files["/w.pt"] = bytes(len(CONTENT))
    server.cuts = [100_000, 0, 0]
    with pytest.raises((FileError, OSError)):
        fetch(url, tmp_path)
    server.files["/w.pt"] = CONTENT
    server.cuts = []
    assert fetch(url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"?", CONTENT[:-5], CONTENT + b"more", b"<html>not here</html>"])
def test_what_is_not_the_file_is_refused_and_removed(server, url, tmp_path, wrong):
    server.files["/w.pt"] = wrong
    with pytest.raises(FileError, match="checksum|bytes arrived|announces"):
        fetch(url, tmp_path)
    assert left(tmp_path) == []
    server.files["/w.pt"] = CONTENT
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_a_whole_part_with_wrong_bytes_is_not_renamed(server, url, tmp_path):
    (tmp_path / "w.pt.part").write_bytes(bytes(len(CONTENT)))
    with pytest.raises(FileError, match="checksum"):
        fetch(url, tmp_path)
    assert left(tmp_path) == []


def test_a_part_longer_than_the_file_starts_again(server, url, tmp_path):
    (tmp_path / "w.pt.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "w.pt.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path / "v", size=None).read_bytes() == CONTENT  # told by the server: 416


def test_a_finished_file_cut_short_is_fetched_again(server, url, tmp_path):
    (tmp_path / "w.pt").write_bytes(CONTENT[:1000])
    source = hub.Source("w.pt", url=url, size=len(CONTENT), sha256=SHA)
    with pytest.raises(hub.NotFoundError, match="holds 1000 bytes, wanted 300000"):
        hub.locate(source, cache_dir=tmp_path, offline=True)
    assert hub.locate(source, cache_dir=tmp_path, offline=False).read_bytes() == CONTENT


def test_two_at_once_download_once(server, url, tmp_path):
    server.hold = threading.Event()
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(url, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.hold.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 3 and len(server.gets()) == 1
    assert found[0].read_bytes() == CONTENT

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
        download(hostile(how), tmp_path / "w.pt", size=size)
    left = [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
    assert left == [] or how == "drip"  # of a slow server's file, the part is kept to go on with
    assert not (tmp_path / "w.pt").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "/etc/passwd"])
def test_only_the_web_is_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(FileError, match="is no address"):
        download(url, tmp_path / "w.pt")
    assert not list(tmp_path.iterdir())
