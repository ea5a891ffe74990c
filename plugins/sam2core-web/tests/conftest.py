"""Only this plugin is discovered, and what fails is raised. One server's application over the embedded model."""

from __future__ import annotations

import os

os.environ["SAM2CORE_PLUGINS"] = "web"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sam2core_web.app import create_app
from sam2core_web.command import listen
from sam2core_web.connections import Server
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits

import registry

SAMPLES = Path(registry.__file__).parent / "samples"
MODEL, SIZE = "sam2core_nano", 256


class Client(TestClient):
    """Calls for this machine, as its browser does."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, base_url="http://localhost")

    def websocket_connect(self, url: str, *arguments: Any, **options: Any) -> Any:
        return super().websocket_connect(f"ws://localhost{url}", *arguments, **options)


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Start an application with its options; it is closed in the end."""
    opened: list[TestClient] = []

    def start(**options: Any) -> TestClient:
        limits = Limits(**options.pop("limits", {}))
        client = Client(create_app(Engine(MODEL, image_size=SIZE), limits=limits, **options))
        client.__enter__()
        opened.append(client)
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """A server on a free port, in a thread: its address."""
    listener = listen("127.0.0.1", 0)
    address = "http://{}:{}".format(*listener.getsockname())
    server = Server(app, app.state.limits)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def live() -> Iterator[Callable[..., SimpleNamespace]]:
    """Start a server that is reached by sockets, with its options: `address`, `app`, `stop`, which its end calls."""
    with contextlib.ExitStack() as stack:

        def start(model: str = MODEL, *, limits: Any = None, **options: Any) -> SimpleNamespace:
            arguments = {"image_size": SIZE} if model == MODEL else {"weights": False}
            app = create_app(Engine(model, **arguments), limits=Limits(**limits or {}), **options)
            server = stack.enter_context(contextlib.ExitStack())
            return SimpleNamespace(address=server.enter_context(running(app)), app=app, stop=server.close)

        yield start
