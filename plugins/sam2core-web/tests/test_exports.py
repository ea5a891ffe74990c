"""Exports are bounded: one at a time of a session, a few being written at once; and they end with their session."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sam2core_web import export as exports

BUSY = "an export of this session is under way"


class Gate:
    """Holds exports while they are written, until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, write = Gate(), exports.write

    def held(*arguments: Any, **options: Any) -> Path:
        gate.entered.release()
        assert gate.opened.wait(60)
        return write(*arguments, **options)

    monkeypatch.setattr(exports, "write", held)
    yield gate
    gate.opened.set()


def prompted(client: Any, address: str = "", sample: str = "cat.jpg") -> str:
    id = client.post(f"{address}/api/sessions", json={"sample": sample}).json()["id"]
    said = client.post(f"{address}/api/sessions/{id}/prompts", json={"object": 1, "points": [[100, 100]]})
    assert said.status_code == 200
    return f"{address}/api/sessions/{id}/export?kind=coco"


def test_exports_are_bounded(live: Callable[..., Any], gate: Gate) -> None:
    server = live("test_tiny", limits={"exports": 2})
    with httpx.Client(timeout=60) as client:
        first, second, third = (prompted(client, server.address) for _ in range(3))
        answers: list[httpx.Response] = []
        callers = [threading.Thread(target=lambda at=at: answers.append(httpx.get(at))) for at in (first, second)]
        for caller in callers:
            caller.start()
            assert gate.entered.acquire(timeout=60)
        again = client.get(first)
        assert again.status_code == 429 and again.headers["retry-after"] == "5" and BUSY in again.json()["detail"]
        full = client.get(third)
        assert full.status_code == 503 and full.headers["retry-after"] == "5"
        assert full.json()["detail"] == "2 exports are being written, as many as may be at once; try again later"
        assert client.get(f"{server.address}/api/about").status_code == 200
        gate.opened.set()
        for caller in callers:
            caller.join()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [client.get(at).status_code for at in (first, second, third)] == [200, 200, 200]
    assert not list(server.app.state.folder.iterdir())


def test_a_turn_comes_back_however_an_export_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = client.post("/api/sessions", json={"sample": "cat.jpg"}).json()["id"]
    for _ in range(3):
        assert client.get(f"/api/sessions/{empty}/export?kind=coco").status_code == 409

    def full(*_: Any, **__: Any) -> Path:
        raise OSError(28, "No space left on device")

    address = prompted(client)
    with monkeypatch.context() as patch:
        patch.setattr(exports, "write", full)
        for _ in range(3):
            answer = client.get(address)
            assert answer.status_code == 507 and "no room left on its disk" in answer.json()["detail"]
    assert client.get(address).status_code == 200
    assert not list(client.app.state.folder.iterdir())


def test_an_upload_that_finds_a_full_disk(client: TestClient) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # to the system, a kind of full disk
    try:
        answer = client.post("/api/uploads", content=b"\x89PNG\r\n\x1a\n" + bytes(300_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert answer.status_code == 507 and "no room left on its disk" in answer.json()["detail"]
    assert not list(client.app.state.folder.iterdir())


@pytest.mark.parametrize("kind", exports.KINDS)
def test_an_export_ends_with_its_session(live: Callable[..., Any], gate: Gate, kind: str) -> None:
    server = live("test_tiny")
    address = prompted(httpx, server.address, "chair.mp4").replace("coco", kind)
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(httpx.get(address, timeout=60)))
    caller.start()
    assert gate.entered.acquire(timeout=60)
    httpx.delete(address.partition("/export")[0], timeout=60)
    gate.opened.set()
    caller.join()
    assert answers[0].status_code in (404, 422) and "closed" in answers[0].json()["detail"]
    assert not list(server.app.state.folder.iterdir())


def test_a_stop_waits_for_no_upload(live: Callable[..., Any]) -> None:
    """What is under way gets its seconds; an upload that goes on is told, and leaves nothing."""
    server = live("test_tiny", limits={"shutdown_seconds": 1})
    place = httpx.URL(server.address)
    folder = server.app.state.folder
    with socket.create_connection((place.host, place.port), timeout=30) as caller:
        head = f"POST /api/uploads HTTP/1.1\r\nhost: {place.host}\r\ncontent-length: 1000000\r\n\r\n"
        caller.sendall(head.encode() + bytes(1000))
        while not list(folder.iterdir()):
            time.sleep(0.01)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 8 and not folder.exists()
        answer = caller.recv(4096)
    assert answer.startswith(b"HTTP/1.1 503") and b"the server is stopping" in answer
