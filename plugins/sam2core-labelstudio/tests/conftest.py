"""A server of the API, in a thread, that plugins and tools call; Label Studio's package keeps its notes elsewhere."""

from __future__ import annotations

import os
import tempfile

os.environ["SAM2CORE_PLUGINS"] = "web"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"
os.environ["MODEL_DIR"] = tempfile.mkdtemp(prefix="sam2core-labelstudio-")

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sam2core_labelstudio import Client

import registry

MODEL, SIZE = "sam2core_nano", 256
SAMPLES = Path(registry.__file__).parent / "samples"


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    """Its `address`, its `app`, a `client` for it, and the library's own `image` and `video` predictors."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("sam2core_web")
    from sam2core_web.app import create_app
    from sam2core_web.engine import Engine
    from sam2core_web.limits import Limits

    app = create_app(Engine(MODEL, image_size=SIZE), limits=Limits(sessions_per_client=16))
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    (port,) = {socket.getsockname()[1] for one in running.servers for socket in one.sockets}
    address = f"http://127.0.0.1:{port}"
    try:
        yield SimpleNamespace(
            address=address,
            app=app,
            client=Client(address),
            samples=SAMPLES,
            image=registry.predictor(MODEL, "image", image_size=SIZE),
            video=registry.predictor(MODEL, "video", image_size=SIZE),
        )
    finally:
        running.should_exit = True
        thread.join()
