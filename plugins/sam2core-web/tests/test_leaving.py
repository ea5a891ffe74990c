"""A server that is asked to stop in the middle of a run: what was done is saved, and goes on as an unbroken run."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from sam2core_web.app import create_app
from sam2core_web.command import listen
from sam2core_web.engine import Engine
from sam2core_web.leaving import LeavingServer
from sam2core_web.limits import Limits
from sam2core_web.store import Store

MODEL, SIZE, FRAMES = "sam2core_nano", 256, 10
BOX, POINT = [190.0, 120.0, 330.0, 340.0], [430.0, 200.0]
STOPS = int(os.environ.get("SAM2CORE_STOPS", "0"))
"""How often a process of its own is stopped by a signal; each time takes a start of the program."""


class InThread:
    """A server in this process, that stops as by a signal."""

    def __init__(self, folder: Path, engine: Engine, **options: Any) -> None:
        limits = Limits(**options)
        self.listener = listen("127.0.0.1", 0)
        self.address = "http://{}:{}/api/".format(*self.listener.getsockname())
        self.server = LeavingServer(create_app(engine, limits=limits, store=Store(folder)), limits)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]))
        self.thread.start()
        until_ready(self.address, self.thread.is_alive)

    def stop(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)  # what uvicorn does when the signal comes
        self.server._captured_signals.clear()  # and would raise again in the end, here for pytest
        self.thread.join(60)
        assert not self.thread.is_alive()


class InProcess:
    """`sam2core serve`, stopped by SIGTERM."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-c", "from sam2core.cli import main; main()", "serve", "--port", str(port)]
        command += ["--model", MODEL, "--image-size", str(SIZE), "--save", str(folder)]
        self.address = f"http://127.0.0.1:{port}/api/"
        self.process = subprocess.Popen(command)
        until_ready(self.address, lambda: self.process.poll() is None)

    def stop(self) -> None:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert time.monotonic() - began < 13


def until_ready(address: str, alive: Any) -> None:
    while True:
        assert alive()
        try:
            httpx.get(f"{address}about", timeout=60).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.05)


def prompted(address: str) -> str:
    """A video with two objects: its session."""
    id = httpx.post(f"{address}sessions", json={"sample": "chair.mp4"}, timeout=60).json()["id"]
    for body in ({"object": 1, "box": BOX}, {"object": 2, "points": [POINT]}):
        httpx.post(f"{address}sessions/{id}/prompts", json=body, timeout=60).raise_for_status()
    return id


def track(address: str, id: str, body: dict[str, Any]) -> int:
    """Until the run ends, or the server does. How many frames came."""
    count = 0
    try:
        with httpx.stream("POST", f"{address}sessions/{id}/propagate", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                count += line == "event: frame"
    except httpx.TransportError:
        pass
    return count


def masks(address: str, id: str) -> list[Any]:
    found = [httpx.get(f"{address}sessions/{id}/masks/{frame}", timeout=60).json() for frame in range(FRAMES)]
    return json.loads(json.dumps(found))


def go_on(address: str, id: str) -> list[Any]:
    """What a session that was stopped comes to."""
    state = httpx.get(f"{address}sessions/{id}", timeout=60).json()
    assert state["saved"] and len(state["objects"]) == 2
    if state["resumable"]:
        track(address, id, {"resume": True})
    return masks(address, id)


def stops(seed: int, start: Any, wanted: list[Any], first: Any) -> int:
    """Stop a server at a random moment of a run, and go on in another one. How many frames the first one told."""
    server, told = first, []
    id = prompted(server.address)
    thread = threading.Thread(target=lambda: told.append(track(server.address, id, {"start": 0, "stop": FRAMES})))
    thread.start()
    time.sleep(random.Random(seed).uniform(0.05, 1.2))
    server.stop()
    thread.join()
    again = start()
    assert go_on(again.address, id) == wanted
    return told[0]


def test_stopped_runs_go_on_as_if_unbroken(tmp_path: Path) -> None:
    engines = [Engine(MODEL, image_size=SIZE) for _ in range(3)]
    servers = []

    def start() -> InThread:
        servers.append(InThread(tmp_path, engines[len(servers)]))
        return servers[-1]

    id = prompted(start().address)
    assert track(servers[0].address, id, {"start": 0, "stop": FRAMES}) == FRAMES
    wanted = masks(servers[0].address, id)
    for seed in (0, 1):
        stops(seed, start, wanted, servers[-1])
    servers[-1].stop()


def test_the_wait_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of work that takes longer than a stop may take is given up."""
    left = threading.Event()
    server = InThread(tmp_path, Engine(MODEL, image_size=SIZE), shutdown_seconds=1)
    server.server.seconds = 0.5
    release = threading.Event()
    monkeypatch.setattr("sam2core_web.leaving.os._exit", lambda code: (left.set(), release.set()))
    id = prompted(server.address)
    work = server.server.app.state.sessions.get(id).work
    monkeypatch.setattr(work, "everything", lambda *_: release.wait(30) and [])
    slow = threading.Thread(target=lambda: httpx.post(f"{server.address}sessions/{id}/everything", json={}, timeout=60))
    slow.start()
    time.sleep(0.3)
    server.stop()
    slow.join()
    assert left.is_set()


@pytest.mark.skipif(not STOPS, reason="SAM2CORE_STOPS says how often a process is stopped")
def test_processes_that_get_sigterm(tmp_path: Path) -> None:
    servers = [InProcess(tmp_path)]

    def start() -> InProcess:
        servers.append(InProcess(tmp_path))
        return servers[-1]

    id = prompted(servers[0].address)
    track(servers[0].address, id, {"start": 0, "stop": FRAMES})
    wanted = masks(servers[0].address, id)
    try:
        told = [stops(seed, start, wanted, servers[-1]) for seed in range(STOPS)]
    finally:
        for one in servers:
            one.process.kill()
    codes = [one.process.returncode for one in servers[:-1]]
    sys.stdout.write(f"frames told before the stops: {told}; exit codes {codes}\n")
