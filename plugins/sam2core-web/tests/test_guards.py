"""What is malformed, too large or out of bounds gets a 4xx, and the server stays well."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from PIL import Image

import registry

SAMPLES = Path(registry.__file__).parent / "samples"


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of grey pixels whose header says what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def refused(client: TestClient, data: bytes, name: str = "x.jpg") -> int:
    answer = client.post(f"/api/uploads?name={name}", content=data)
    assert 400 <= answer.status_code < 500 and answer.json()["detail"], answer.text
    assert not list(client.app.state.folder.iterdir()) and not len(client.app.state.sessions)
    return answer.status_code


def test_malformed_uploads(client: TestClient) -> None:
    clip, picture = (SAMPLES / "chair.mp4").read_bytes(), (SAMPLES / "cat.jpg").read_bytes()
    assert refused(client, b"just some words, no picture") == 415
    assert refused(client, b"") == 415
    assert refused(client, png(50_000, 50_000)) == 413
    assert refused(client, png(30_000, 30_000, bytes(2_000_000))) == 413
    assert refused(client, png(500, 500, b"\0" * 100)) == 422
    assert refused(client, picture[: len(picture) // 2]) == 422
    assert refused(client, clip[: len(clip) // 2], "x.mp4") == 422
    assert refused(client, clip[:40], "x.mp4") == 422
    assert refused(client, b"\0\0\0\x18ftypisom" + bytes(400), "x.mp4") == 422
    assert client.post("/api/uploads?name=cat.jpg", content=picture).status_code == 201


def test_uploads_are_bounded(serve: Callable[..., TestClient]) -> None:
    client = serve(limits={"upload_bytes": 1000, "frames": 10})
    assert refused(client, bytes(1001)) == 413

    def pieces() -> Any:  # no Content-Length to go by
        for _ in range(30):
            yield bytes(100)

    answer = client.post("/api/uploads", content=pieces())
    assert answer.status_code == 413 and not list(client.app.state.folder.iterdir())
    assert client.post("/api/sessions", json={"sample": "chair.mp4"}).status_code == 413


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
    document = client.get("/openapi.json").json()
    assert "/api/sessions/{id}/propagate" in document["paths"]
