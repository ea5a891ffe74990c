"""A stand-in for the network: a web server on this machine that can be told to misbehave."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "c" * 40


@dataclass
class Stand:
    """What it serves, how it fails, and what was asked.

    files       path -> content
    cuts        for the next GETs: close the connection after so many bytes of the answer (None: behave)
    ranges      whether parts of a file can be asked for
    statuses    path -> a status to answer with instead
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int | None] = field(default_factory=list)
    ranges: bool = True
    statuses: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    hold: threading.Event | None = None

    def gets(self) -> list[tuple[str, str | None]]:
        return [(path, part) for method, path, part in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand: Stand

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        stand = self.stand
        path = self.path.split("?")[0]
        asked = self.headers.get("Range")
        stand.asked.append((self.command, path, asked))
        if stand.hold is not None and body:
            stand.hold.wait(20)
        status = stand.statuses.get(path)
        content = stand.files.get(path)
        if status is not None or content is None:
            self.send_response(status or 404)
            self.send_header("Content-Length", "0")
            if status is None and "/resolve/" in path:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        start, stop = 0, len(content)
        if asked and stand.ranges and self.headers.get("If-Range", etag) == etag:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes" if stand.ranges else "none")
        self.end_headers()
        if not body:
            return
        piece = content[start:stop]
        cut = stand.cuts.pop(0) if stand.cuts else None
        if cut is None:
            self.wfile.write(piece)
        else:
            self.wfile.write(piece[:cut])
            self.wfile.flush()
            self.close_connection = True


@pytest.fixture
def server() -> Iterator[Stand]:
    stand = Stand()
    handler = type("StandHandler", (Handler,), {"stand": stand})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    stand.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield stand
    httpd.shutdown()
    httpd.server_close()
    thread.join()
