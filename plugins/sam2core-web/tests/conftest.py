"""Only this plugin is discovered, and what fails is raised. One server's application over the embedded model."""

from __future__ import annotations

import os

os.environ["SAM2CORE_PLUGINS"] = "web"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sam2core_web.app import create_app
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits

import registry

SAMPLES = Path(registry.__file__).parent / "samples"
MODEL, SIZE = "sam2core_nano", 256


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Start an application with its options; it is closed in the end."""
    opened: list[TestClient] = []

    def start(**options: Any) -> TestClient:
        limits = Limits(**options.pop("limits", {}))
        client = TestClient(create_app(Engine(MODEL, image_size=SIZE), limits=limits, **options))
        client.__enter__()
        opened.append(client)
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()
