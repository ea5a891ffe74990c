"""Strangers who open connections and dawdle keep nobody out, do not stay, and do not fill the log."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sam2core_web.command import listen
from sam2core_web.connections import Seldom, Server
from sam2core_web.limits import Limits

resource = pytest.importorskip("resource")
SLOW = 1500
HALF = b"GET /api/about HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: "

SERVER = """
from sam2core_web.app import create_app
from sam2core_web.command import listen, run
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits

app = create_app(Engine("sam2core_nano", image_size=64), token="T", local=False)
with listen("0.0.0.0", 0) as listener:
    print(listener.getsockname()[1], flush=True)
    run(app, listener, Limits())
"""
"""What `sam2core serve --host 0.0.0.0 --token T` does, with images seen small."""


@pytest.fixture
def descriptors() -> Iterator[int]:
    """How many files this process may have open, after asking for enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SLOW + 500
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, possible), hard))
    yield max(soft, possible)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def dawdling(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Callers from a few addresses who each send half a header."""
    callers = []
    try:
        for number in range(count):
            source = f"127.0.0.{1 + number % 8}" if sys.platform == "linux" else "127.0.0.1"
            callers.append(socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)))
            with contextlib.suppress(ConnectionError):  # those who came first may be gone
                callers[-1].sendall(HALF)
        yield callers
    finally:
        for caller in callers:
            caller.close()


def is_open(caller: socket.socket) -> bool:
    caller.settimeout(0)
    try:
        return caller.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_a_crowd_of_slow_clients_locks_nobody_out(descriptors: int, tmp_path: Path) -> None:
    """With 256 files for the server, and 1,500 callers, or as many as this process can be."""
    count = min(SLOW, descriptors - 200)
    if count < 260:
        pytest.skip(f"this process may have {descriptors} files open; 460 are wanted")
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        server = subprocess.Popen(
            ["sh", "-c", 'ulimit -n 256; exec "$0" -c "$1"', sys.executable, SERVER],
            stdout=subprocess.PIPE, stderr=file, text=True,
        )  # fmt: skip
    try:
        assert server.stdout is not None
        port, said = int(server.stdout.readline()), {"authorization": "Bearer T"}
        httpx.get(f"http://127.0.0.1:{port}/api/about", headers=said, timeout=60).raise_for_status()  # it is there
        with dawdling(port, count) as callers:
            seconds = []
            for _ in range(6):  # the first waits until the crowd was let in
                began = time.monotonic()
                httpx.get(f"http://127.0.0.1:{port}/api/about", headers=said, timeout=20).raise_for_status()
                seconds.append(time.monotonic() - began)
            assert sorted(seconds)[-2] < 1
            assert 0 < sum(map(is_open, callers)) <= 64
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()
    lines = errors.read_text().splitlines()
    assert len(lines) < 20, f"{count} callers filled the log"
    assert any("to make room" in line for line in lines)


def test_half_a_header_does_not_stay(live: Callable[..., Any]) -> None:
    """Neither the first of a connection, nor one after an answer, nor what follows a refused body, however it drips."""
    server = live(limits={"header_seconds": 1.0}, token="T")
    address = ("127.0.0.1", httpx.URL(server.address).port)
    whole = b"GET /api/about HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer T\r\n\r\n"
    refused = b"POST /api/uploads HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100000\r\n\r\nxxx"
    callers = []
    for begin in (b"", HALF, whole + HALF, refused):
        callers.append(socket.create_connection(address))
        callers[-1].sendall(begin)
    began = time.monotonic()
    left = set(callers)
    while left:
        assert time.monotonic() - began < 20
        for caller in list(left):
            try:
                caller.sendall(b"x")  # drips
            except ConnectionError:
                left.remove(caller)
        time.sleep(0.2)
    for caller in callers:
        caller.close()
    assert httpx.get(f"{server.address}/api/about", headers={"authorization": "Bearer T"}).status_code == 200


async def _slow(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers /wait only when `released`, /much with more than fits, and all else at once."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
    if scope["path"] == "/much":
        for _ in range(200):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def serving(limits: Limits) -> Iterator[tuple[str, int]]:
    listener = listen("127.0.0.1", 0)
    server = Server(_slow, limits)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    place = listener.getsockname()
    thread.start()
    try:
        yield place
    finally:
        server.should_exit = True
        thread.join()


def asked(place: tuple[str, int], path: str, source: str = "127.0.0.1") -> socket.socket:
    caller = socket.create_connection(place, timeout=20, source_address=(source, 0))
    caller.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return caller


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives this machine several loopback addresses")
def test_connections_are_bounded_by_address_and_in_all() -> None:
    """Those that answer stay; another one is told when to come again, until one of them is done."""
    with serving(Limits(connections=3, connections_per_client=2)) as place, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(asked(place, "/wait")) for _ in range(2)]
        for caller in waiting:
            assert caller.recv(4096).startswith(b"HTTP/1.1 200")
        refused = httpx.get("http://{}:{}/".format(*place))
        assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        assert "as many connections as it can hold" in refused.json()["detail"]
        third = stack.enter_context(asked(place, "/wait", "127.0.0.2"))
        assert third.recv(4096).startswith(b"HTTP/1.1 200")
        with asked(place, "/", "127.0.0.3") as fourth:
            assert fourth.recv(4096).startswith(b"HTTP/1.1 503")
        assert all(map(is_open, [*waiting, third]))
        waiting[0].close()
        end = time.monotonic() + 20
        while httpx.get("http://{}:{}/".format(*place)).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_an_answer_that_nobody_takes_ends() -> None:
    with serving(Limits(answer_seconds=0.5)) as place, asked(place, "/much") as caller:
        time.sleep(1.5)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while piece := caller.recv(2**20):
                taken += len(piece)
        assert 0 < taken < 200 * 2**20
        assert httpx.get("http://{}:{}/".format(*place)).status_code == 200


def test_log_lines_are_told_seldom() -> None:
    now, told = [0.0], []
    logger = logging.Logger("x")
    logger.addFilter(Seldom(lambda: now[0]))
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    for number in range(1000):
        logger.warning("invalid request from %d", number)
    logger.warning("another")
    assert told == [*(f"invalid request from {number}" for number in range(3)), "another"]
    now[0] = 61.0
    logger.warning("invalid request from %d", 7)
    assert re.fullmatch(r"invalid request from 7 \(and 997 more like it\)", told[-1])
