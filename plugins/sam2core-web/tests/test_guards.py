"""What is malformed, too large or out of bounds gets a 4xx, and the server stays well."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image
from sam2core_web.guard import Guard
from sam2core_web.scratch import scratch

import registry
from sam2core.cli import main

SAMPLES = Path(registry.__file__).parent / "samples"


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of grey pixels whose header says what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def refused(client: TestClient, data: bytes, name: str = "x.jpg") -> int:
    answer = client.post("/api/uploads", params={"name": name}, content=data)
    assert 400 <= answer.status_code < 500, answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, str) and 20 < len(detail) < 300 and "Traceback" not in detail
    assert str(client.app.state.folder) not in detail, "it names the server's own files"
    assert not list(client.app.state.folder.iterdir()) and not len(client.app.state.sessions)
    return answer.status_code


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat.jpg", (SAMPLES / "cat.jpg").read_bytes())
    return buffer.getvalue()


def jpeg(width: int, height: int) -> bytes:
    """The cat, with another size in the header."""
    data = bytearray((SAMPLES / "cat.jpg").read_bytes())
    at = next(at for mark in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(mark)) >= 0)
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def text_bomb() -> bytes:
    """A PNG of one pixel and 64 MB of words, packed into 64 KB."""
    body = b"words\0\0" + zlib.compress(bytes(64 * 2**20), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    whole = png(1, 1, b"\0\0")
    return whole[:33] + chunk + whole[33:]


PICTURE, MOVIE = (SAMPLES / "cat.jpg").read_bytes(), (SAMPLES / "chair.mp4").read_bytes()
MALFORMED: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "text": (lambda: b"just some words, no picture", {415}),
    "nothing": (lambda: b"", {415}),
    "zip": (zipped, {415}),
    "svg": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="/etc/passwd"/></svg>',
        {415},
    ),
    "html": (lambda: b"<html><script>alert(1)</script></html>", {415}),
    "gif": (lambda: b"GIF89a" + bytes(100), {415}),
    "tiff": (lambda: b"II*\0" + bytes(100), {422}),
    "pickle": (lambda: b"\x80\x04\x95" + bytes(100), {415}),
    "playlist": (lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", {415}),
    "playlist in avi": (lambda: b"RIFF\x80\0\0\0AVI #EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" + bytes(100), {422}),
    "bomb": (lambda: png(30_000, 30_000, bytes(2_000_000)), {413}),
    "bomb of words": (text_bomb, {422}),
    "large png header": (lambda: png(50_000, 50_000), {413}),
    "large jpeg header": (lambda: jpeg(50_000, 50_000), {413}),
    "large bmp header": (lambda: bmp(50_000, 50_000), {413, 422}),
    "negative bmp header": (lambda: bmp(-5, 5), {413, 422}),
    "nothing but a png header": (lambda: png(500, 500, b"\0" * 100), {422}),
    "jpeg cut off": (lambda: PICTURE[: len(PICTURE) // 2], {422}),
    "jpeg's first bytes": (lambda: PICTURE[:5], {422}),
    "webp's first bytes": (lambda: b"RIFF\x20\0\0\0WEBPVP8 " + bytes(20), {422}),
    "video cut off": (lambda: MOVIE[: len(MOVIE) // 2], {422}),
    "video cut off late": (lambda: MOVIE[:-100], {422}),
    "video's first bytes": (lambda: MOVIE[:40], {422}),
    "video of zeros": (lambda: b"\0\0\0\x18ftypisom" + bytes(400), {422}),
    "video without its index": (lambda: MOVIE.replace(b"moov", b"xxxx"), {422}),
    "video of noise": (lambda: MOVIE[:2000] + bytes(at * 31 % 251 for at in range(len(MOVIE) - 2000)), {422}),
    "mkv's first bytes": (lambda: b"\x1a\x45\xdf\xa3" + bytes(60), {422}),
}


def test_malformed_uploads(client: TestClient) -> None:
    """Whatever is sent, under whatever name: refused by a sentence, nothing stays, and the next caller is served."""
    for kind, (make, wanted) in MALFORMED.items():
        for name in ("x.jpg", "x.mp4"):
            assert refused(client, make(), name) in wanted, kind
    assert refused(client, PICTURE, "x" * 201) == 422
    form = client.post("/api/uploads", files={"file": ("cat.jpg", PICTURE, "image/jpeg")})
    assert form.status_code == 415 and "form" in form.json()["detail"]
    wrong = client.post("/api/uploads", content=b"--x\r\n", headers={"content-type": "multipart/form-data"})
    assert wrong.status_code == 415 and not list(client.app.state.folder.iterdir())
    answer = client.post("/api/uploads?name=cat.jpg", content=PICTURE)
    assert answer.status_code == 201
    body = {"object": 1, "points": [[220, 150]]}
    seen = client.post(f"/api/sessions/{answer.json()['id']}/prompts", json=body).json()
    assert seen["masks"]["1"]["area"] > 1000


def test_a_name_is_no_path(client: TestClient, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for name in (
        "../../etc/cat.jpg",
        f"{tmp_path}/cat.jpg",
        "..\\..\\cat.jpg",
        "C:\\cat.jpg",
        "a\0b/cat.jpg",
        "%2e%2e/cat.jpg",
    ):
        opened = client.post("/api/uploads", params={"name": name}, content=PICTURE).json()
        assert opened["name"] == "cat.jpg", name
        client.post(f"/api/sessions/{opened['id']}/prompts", json={"object": 1, "points": [[220, 150]]})
        for kind in ("coco", "palette", "overlay"):
            answer = client.get(f"/api/sessions/{opened['id']}/export", params={"kind": kind})
            assert 'filename="cat.' in answer.headers["content-disposition"]
        client.delete(f"/api/sessions/{opened['id']}")
    assert sorted(tmp_path.rglob("*")) == before and not list(client.app.state.folder.iterdir())
    odd = client.post("/api/uploads", params={"name": ".."}, content=PICTURE)
    assert odd.status_code == 201 and odd.json()["name"] == "upload"


def test_an_upload_that_breaks_off_leaves_nothing(live: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    server = live()
    place = httpx.URL(server.address)
    with socket.create_connection((place.host, place.port)) as caller:
        head = f"POST /api/uploads HTTP/1.1\r\nhost: {place.host}\r\ncontent-length: {len(MOVIE)}\r\n\r\n"
        caller.sendall(head.encode() + MOVIE[: len(MOVIE) // 2])
        until(lambda: list(server.app.state.folder.iterdir()))
    until(lambda: not list(server.app.state.folder.iterdir()))
    assert httpx.post(f"{server.address}/api/uploads?name=x.mp4", content=MOVIE).status_code == 201
    assert "Traceback" not in capfd.readouterr().err


def test_uploads_are_bounded(serve: Callable[..., TestClient]) -> None:
    client = serve(limits={"upload_bytes": 1000, "frames": 10})
    assert refused(client, bytes(1001)) == 413

    def pieces() -> Any:  # no Content-Length to go by
        for _ in range(30):
            yield bytes(100)

    answer = client.post("/api/uploads", content=pieces())
    assert answer.status_code == 413 and not list(client.app.state.folder.iterdir())
    assert client.post("/api/sessions", json={"sample": "chair.mp4"}).status_code == 413


def test_bodies_are_bounded(serve: Callable[..., TestClient]) -> None:
    client = serve(limits={"body_bytes": 1000})
    body = b'{"sample": "cat.jpg"' + b" " * 1000 + b"}"

    def pieces() -> Any:  # no Content-Length to go by
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    json = {"content-type": "application/json"}
    for content in (body, pieces()):
        answer = client.post("/api/sessions", content=content, headers=json)
        assert answer.status_code == 413 and answer.json()["detail"].startswith("the body is too large; at most 1,000")
    assert client.post("/api/sessions", json={"sample": "cat.jpg"}).status_code == 201
    assert client.post("/api/uploads", content=PICTURE).status_code == 201


def test_an_upload_takes_its_place_before_it_is_read(live: Callable[..., Any]) -> None:
    """A caller without a place is told so at once, and one who stops sending gives the place and the file back."""
    server = live(limits={"sessions_per_client": 1, "body_seconds": 2.0})
    place = httpx.URL(server.address)
    head = f"POST /api/uploads HTTP/1.1\r\nhost: {place.host}\r\ncontent-length: {len(MOVIE)}\r\n\r\n".encode()
    with socket.create_connection((place.host, place.port)) as first:
        first.sendall(head + MOVIE[:1000])
        until(lambda: list(server.app.state.folder.iterdir()))
        with socket.create_connection((place.host, place.port)) as second:
            second.sendall(head)
            assert b" 429 " in second.recv(4096).split(b"\r\n")[0]
        assert len(list(server.app.state.folder.iterdir())) == 1
        assert b" 408 " in first.recv(4096).split(b"\r\n")[0]
    assert not list(server.app.state.folder.iterdir())
    assert httpx.post(f"{server.address}/api/uploads?name=x.mp4", content=MOVIE).status_code == 201


def test_an_upload_that_drips_is_ended(live: Callable[..., Any]) -> None:
    server = live(limits={"body_seconds": 1.0})
    place = httpx.URL(server.address)
    head = f"POST /api/uploads HTTP/1.1\r\nhost: {place.host}\r\ncontent-length: {len(MOVIE)}\r\n\r\n".encode()
    with socket.create_connection((place.host, place.port)) as connection:
        connection.sendall(head)
        connection.settimeout(0.1)
        answer, end = b"", time.monotonic() + 30
        while not answer and time.monotonic() < end:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                answer = connection.recv(4096)
        connection.settimeout(30)
        while piece := connection.recv(4096):
            answer += piece
    assert b" 408 " in answer.split(b"\r\n")[0] and b"too slowly; at least 1,000 bytes a second" in answer
    assert not list(server.app.state.folder.iterdir())


def test_an_uploaded_clip_is_removed_with_its_session(client: TestClient) -> None:
    answer = client.post("/api/uploads?name=x.mp4", content=(SAMPLES / "chair.mp4").read_bytes())
    assert answer.status_code == 201 and answer.json()["frames"] == 40
    assert len(list(client.app.state.folder.iterdir())) == 1
    client.delete(f"/api/sessions/{answer.json()['id']}")
    assert not list(client.app.state.folder.iterdir())


def test_nothing_outside_the_media_folder(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    media = tmp_path / "media"
    (media / "sub").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(media / "sub" / "red.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    (media / "link.png").symlink_to(tmp_path / "secret.png")
    client = serve(media=media)
    assert {"name": "sub/red.png", "kind": "image"} in client.get("/api/media").json()
    assert client.post("/api/sessions", json={"media": "sub/red.png"}).status_code == 201
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "sub", "", "a\0b", "sub/../../secret.png"):
        assert client.post("/api/sessions", json={"media": name}).status_code == 404, name
        assert client.get("/api/thumbnail", params={"of": "media", "name": name}).status_code == 404, name
    assert client.post("/api/sessions", json={"sample": "../specs/test_tiny.yaml"}).status_code == 404
    seen = client.get("/api/thumbnail", params={"of": "media", "name": "sub/red.png"})
    assert Image.open(io.BytesIO(seen.content)).size == (40, 30)


def test_the_media_folder_is_listed_in_the_order_of_numbers_without_what_is_hidden(
    serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    hidden = (".hidden.png", "._2.png", "__MACOSX/3.png", ".b/4.png", "Thumbs.db")
    for name in ("10.png", "2.png", "b/1.jpg", "1.txt", *hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [one["name"] for one in serve(media=tmp_path).get("/api/media").json()]
    assert names == ["2.png", "10.png", "b/1.jpg"]


def test_errors_do_not_say_where_files_lie(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    """As when a frame is damaged, or its file has gone: the message names the file, not its folder."""
    (tmp_path / "clip.mp4").write_bytes(MOVIE)
    client = serve(media=tmp_path)
    for opened in (
        client.post("/api/sessions", json={"media": "clip.mp4"}),
        client.post("/api/uploads?name=x.mp4", content=MOVIE),
        client.post("/api/sessions", json={"sample": "chair.mp4"}),
    ):
        address = f"/api/sessions/{opened.json()['id']}"
        client.post(f"{address}/prompts", json={"object": 1, "points": [[100, 100]]})
        client.app.state.sessions.get(opened.json()["id"]).work.source.close()
        answers = [client.get(f"{address}/frames/9"), client.post(f"{address}/propagate", json={"start": 9})]
        assert [answer.status_code for answer in answers] == [422, 200]
        for answer in answers:
            assert "was closed" in answer.text and "/" not in answer.text


def test_who_may_call(serve: Callable[..., TestClient]) -> None:
    client = serve(token="secret")
    assert client.get("/api/about").status_code == 401
    assert client.get("/api/about", headers={"authorization": "Bearer secret"}).status_code == 200
    assert client.get("/api/about", headers={"authorization": "Bearer other"}).status_code == 401
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    page = client.get("/")
    assert (
        page.status_code == 200
        and "script" in page.text
        and "default-src 'self'" in page.headers["content-security-policy"]
    )
    assert client.get("/healthz").json() == {"status": "ok"}
    document = client.get("/openapi.json").json()
    assert "/api/sessions/{id}/propagate" in document["paths"]


HOSTS = ("[::1", "[", "]", "[]", "[::1]x", "[:::::]", "[127.0.0.1]", "a b", "evil.example", "testserver", "localhost:x",
         "localhost@evil", "localhost/..", "127.0.0.1#", "\xff\xfe", "%00", "0x7f000001", "x" * 5000, "")  # fmt: skip
ORIGINS = ("http://[::1", "null", "", "[", "http://", "://", "file://", "http://localhost@evil", "\xff", "x" * 5000)


def test_hosts_and_origins_that_are_none(client: TestClient) -> None:
    """A 4xx in words, for every kind of address, whatever the header says."""
    for path in ("/", "/api/about", "/api/nowhere", "/healthz", "/openapi.json", "/main.js", "//", "/api/sessions/x"):
        wrong = [{"host": host.encode("latin-1")} for host in HOSTS]
        wrong += [{"origin": origin.encode("latin-1")} for origin in ORIGINS]
        for headers in wrong:
            answer = client.get(path, headers=headers)
            assert answer.status_code in (400, 403, 421), (path, headers)
            assert len(answer.json()["detail"]) > 20
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]", "[::1]:8000", "[0:0::1]"):
        assert client.get("/api/about", headers={"host": host}).status_code == 200, host


def test_hosts_of_a_server_for_others(serve: Callable[..., TestClient]) -> None:
    client = serve(local=False, token="T")
    for host in ("[::1", "[:::::]", "a b", "\xff"):
        assert client.get("/healthz", headers={"host": host.encode("latin-1")}).status_code == 400, host
    for host in ("sam.example:8000", "10.0.0.7", "[fe80::1]:8000", "a_b", ""):
        assert client.get("/healthz", headers={"host": host}).status_code == 200, host


def test_other_sites_see_nothing(client: TestClient) -> None:
    """Browsers say where a call comes from, also where they send no Origin: from an image, a script, a frame."""
    for site in ("cross-site", "same-site"):
        came = {"sec-fetch-site": site}
        for path in ("/api/about", "/api/samples", "/api/thumbnail?name=cat.jpg", "/", "/main.js"):
            assert client.get(path, headers=came).status_code == 403, path
        link = {**came, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert client.get("/?sample=cat.jpg", headers=link).status_code == 200
        assert client.get("/", headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403
        assert client.get("/api/about", headers=link).status_code == 403
    for site in ("same-origin", "none"):
        assert client.get("/api/about", headers={"sec-fetch-site": site}).status_code == 200
    for path, status in (("/", 200), ("/api/about", 200), ("/api/nowhere", 404), ("/healthz", 200)):
        headers = client.get(path).headers
        assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert client.get(path).status_code == status
    refused = client.get("/", headers={"host": "evil.example"})
    assert refused.headers["cross-origin-resource-policy"] == "same-origin"


def test_a_token_that_nobody_could_show() -> None:
    for token in ("", " ", "a b", "a+b", "\xe9", "a\n"):
        ended = CliRunner().invoke(main, ["serve", "--token", token])
        assert ended.exit_code == 2 and "a token has at least one of the letters" in ended.output, token
        with pytest.raises(ValueError, match="a token has at least one"):
            Guard(None, token=token, local=True)


def test_folders_of_killed_servers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of servers that run, of one that is just starting, or of anything else."""
    pytest.importorskip("fcntl")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "from sam2core_web.scratch import scratch\nwith scratch() as folder: print(folder, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        theirs = Path(server.stdout.readline().strip())
        (theirs / "upload").write_bytes(MOVIE)
        other = tmp_path / "sam2core-website"
        (tmp_path / "sam2core-web-link").symlink_to(tmp_path)
        for folder in (theirs, other):
            folder.mkdir(exist_ok=True)
            os.utime(folder, (0, 0))
        with scratch() as mine:
            assert mine.parent == theirs.parent == tmp_path and (theirs / "upload").exists()
        server.kill()
    with scratch():
        assert not theirs.exists() and other.exists() and (tmp_path / "sam2core-web-link").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sam2core-web-link", "sam2core-website"]
