"""Sessions that are saved come back as they were: in another server over the same folder, or after they were idle."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sam2core_web.app import create_app
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits
from sam2core_web.saved import Saved

import registry
from sam2core.ops import rle

MODEL, SIZE = "sam2core_nano", 256  # as in conftest
SAMPLES = Path(registry.__file__).parent / "samples"
BOX, POINT = [190.0, 120.0, 330.0, 340.0], [430.0, 200.0]


@contextlib.contextmanager
def server(folder: Path, *, size: int = SIZE, **options: Any) -> Iterator[TestClient]:
    app = create_app(Engine(MODEL, image_size=size), limits=Limits(**options), saved=Saved(folder))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def known(client: TestClient, id: str, frame: int) -> dict[int, np.ndarray]:
    found = client.get(f"/api/sessions/{id}/masks/{frame}").json()["masks"]
    return {int(number): rle.decode(mask["segmentation"]) for number, mask in found.items()}


def test_a_clip_comes_back_after_a_restart(tmp_path: Path) -> None:
    """Uploaded, prompted, half tracked; a new server goes on with the masks of a library session that never ended."""
    with server(tmp_path) as client:
        data = (SAMPLES / "chair.mp4").read_bytes()
        id = client.post("/api/uploads?name=chair.mp4", content=data).json()["id"]
        client.post(f"/api/sessions/{id}/prompts", json={"object": 1, "box": BOX, "name": "A", "color": "#112233"})
        work = client.app.state.sessions.get(id).work
        work.begin("forward", 0, 8)
        assert [client.portal.call(client.app.state.engine.run, work.advance) for _ in range(4)] == [0, 1, 2, 3]
        before = client.get(f"/api/sessions/{id}").json()
    assert sorted(path.name for path in (tmp_path / id).iterdir()) == ["session-1.safetensors", "source", "state.json"]
    with server(tmp_path) as client:
        after = client.get(f"/api/sessions/{id}").json()
        assert after == {**before, "undoable": 0} and after["resumable"]
        assert client.get(f"/api/sessions/{id}/frames/3").status_code == 200
        client.post(f"/api/sessions/{id}/prompts", json={"object": 2, "frame": 4, "points": [POINT]})
        ran = client.post(f"/api/sessions/{id}/propagate", json={"resume": True})
        assert ran.text.count("event: frame") == 4 and '"finished"' in ran.text
        got = {frame: known(client, id, frame) for frame in range(8)}
        end = time.monotonic() + 60
        while (
            '"2"' not in (tmp_path / id / "state.json").read_text()
        ):  # a run is saved at its end, not only at the server's
            assert time.monotonic() < end
            time.sleep(0.01)
        assert client.delete(f"/api/sessions/{id}").status_code == 204
        assert client.get(f"/api/sessions/{id}").status_code == 404
    assert list(tmp_path.iterdir()) == []
    session = registry.predictor(MODEL, "video", image_size=SIZE).open(SAMPLES / "chair.mp4", keep="all")
    session.prompt(0, 1, box=BOX)
    wanted = {one.frame: one.masks for one in session.propagate(0, 4)}
    session.prompt(4, 2, points=[POINT])
    wanted |= {one.frame: one.masks for one in session.propagate(4, 8)}
    for frame, masks in wanted.items():
        assert set(got[frame]) == set(masks)
        assert all(np.array_equal(got[frame][number], mask.numpy()) for number, mask in masks.items()), frame


@pytest.mark.parametrize("uploaded", [True, False])
def test_a_picture_comes_back_after_it_was_idle(tmp_path: Path, uploaded: bool) -> None:
    with server(tmp_path, idle_seconds=60.0) as client:
        if uploaded:
            answer = client.post("/api/uploads?name=cat.jpg", content=(SAMPLES / "cat.jpg").read_bytes())
        else:
            answer = client.post("/api/sessions", json={"sample": "cat.jpg"})
        id = answer.json()["id"]
        body = {"object": 1, "points": [[220, 150]]}
        mask = client.post(f"/api/sessions/{id}/prompts", json=body).json()["masks"]["1"]["segmentation"]
        client.post(f"/api/sessions/{id}/prompts", json={"object": 2, "mask": mask})
        first = known(client, id, 0)
        sessions = client.app.state.sessions
        sessions.clock = lambda: time.monotonic() + 61
        assert client.portal.call(sessions.drop_idle) == 1 and not len(sessions)
        assert list(client.app.state.folder.iterdir()) == []
        second = known(client, id, 0)
        assert len(sessions) == 1 and all(np.array_equal(first[number], second[number]) for number in (1, 2))
        again = client.post(f"/api/sessions/{id}/prompts", json=body).json()["masks"]["1"]["segmentation"]
        assert again == mask


def test_what_cannot_come_back_says_why(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        ids = [client.post("/api/sessions", json={"sample": name}).json()["id"] for name in ("chair.mp4",) * 3]
        client.post(f"/api/sessions/{ids[0]}/prompts", json={"object": 1, "box": BOX})
    (tmp_path / ids[1] / "state.json").write_text('{"schema": 1')
    state = json.loads((tmp_path / ids[2] / "state.json").read_text())
    (tmp_path / ids[2] / "state.json").write_text(json.dumps({**state, "file": "../specs/test_tiny.yaml"}))
    with server(tmp_path, size=192) as client:
        for id, why in zip(ids, ("another model", "cannot come back", "no such file"), strict=True):
            answer = client.get(f"/api/sessions/{id}")
            assert answer.status_code == 409 and why in answer.json()["detail"], answer.text
            assert str(tmp_path) not in answer.text
        for id in ("x" * 22, "..", "..%2f..%2fetc", ids[0] + "a"):
            assert client.get(f"/api/sessions/{id}").status_code == 404
        assert not len(client.app.state.sessions)
        assert client.post("/api/sessions", json={"sample": "cat.jpg"}).status_code == 201


def test_saved_sessions_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        client.post("/api/sessions", json={"sample": "cat.jpg"})
    (tmp_path / "half").mkdir()
    saved = Saved(tmp_path, seconds=1000)
    saved.expire()
    assert len(list(tmp_path.iterdir())) == 2
    Saved(tmp_path, seconds=1000, clock=lambda: time.time() + 1001).expire()
    assert list(tmp_path.iterdir()) == []
