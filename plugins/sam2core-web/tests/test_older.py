"""What older versions kept with `--save`, a folder a session: it comes back as it was, or stays and is told of."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sam2core_web.app import create_app
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits
from sam2core_web.store import FILE, MEDIA, Store

import registry
from sam2core.ops import rle

SAMPLES = Path(registry.__file__).parent / "samples"
BOX = [190.0, 120.0, 330.0, 340.0]


def server(folder: Path) -> TestClient:
    app = create_app(Engine("sam2core_nano", image_size=64), limits=Limits(), store=Store(folder))
    return TestClient(app, base_url="http://localhost")


def write_as_before(client: TestClient, id: str, folder: Path) -> None:
    """Keep a session as versions before the store did."""
    session = client.app.state.sessions.get(id)
    place = folder / id
    place.mkdir(parents=True)
    clip = session.work.kind == "clip"
    if clip:
        session.work.session.save(place / "session-3.safetensors")
        (place / "source").write_bytes((SAMPLES / session.name).read_bytes())

    def told(thing: Any) -> dict[str, Any]:
        said = {
            str(frame): {
                "points": one.points,
                "labels": one.labels,
                "box": one.box,
                "mask": None if one.mask is None else rle.encode(one.mask),
            }
            for frame, one in thing.said.items()
        }
        answers = {str(frame): list(one) for frame, one in thing.answers.items()}
        return {"name": thing.name, "color": thing.color, "said": said, "answers": answers}

    state = {
        "schema": 1,
        "name": session.name,
        "of": session.of,
        "file": session.file,
        "kind": session.work.kind,
        "legs": session.work.legs,
        "things": {str(number): told(thing) for number, thing in session.work.things.items()},
        "tensors": "session-3.safetensors" if clip else None,
    }
    (place / "state.json").write_text(json.dumps(state))


def masks(client: TestClient, id: str, frames: int) -> list[dict[str, Any]]:
    found = [client.get(f"/api/sessions/{id}/masks/{frame}").json()["masks"] for frame in range(frames)]
    return [{number: one["segmentation"] for number, one in each.items()} for each in found]


def test_folders_of_before_are_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = np.zeros((300, 451), bool)
    mine[50:90, 40:99] = True
    with server(tmp_path / "a") as client:
        data = (SAMPLES / "chair.mp4").read_bytes()
        clip = client.post("/api/uploads?name=chair.mp4", content=data).json()["id"]
        client.post(f"/api/sessions/{clip}/prompts", json={"object": 1, "box": BOX, "name": "Chair"})
        client.post(f"/api/sessions/{clip}/propagate", json={"stop": 2})
        picture = client.post("/api/sessions", json={"sample": "cat.jpg"}).json()["id"]
        body = {"object": 1, "mask": rle.encode(mine)}
        assert client.post(f"/api/sessions/{picture}/prompts", json=body).status_code == 200
        before = {id: client.get(f"/api/sessions/{id}").json() for id in (clip, picture)}
        for id in (clip, picture):
            write_as_before(client, id, tmp_path / "b")
        shown = masks(client, clip, 2), masks(client, picture, 1)
        client.post(f"/api/sessions/{clip}/propagate", json={"start": 2, "stop": 4})
        following = masks(client, clip, 4)
    broken = [tmp_path / "b" / (letter * 22) for letter in "xyz"]
    for place, text in zip(broken, ("{", "[]", (tmp_path / "b" / clip / "state.json").read_text())):
        place.mkdir()
        (place / "state.json").write_text(text)  # the last has lost its video
    with caplog.at_level(logging.WARNING), server(tmp_path / "b") as client:
        assert {one["id"] for one in client.get("/api/sessions").json()} == {clip, picture}
        for id in (clip, picture):
            now = client.get(f"/api/sessions/{id}").json()
            assert now == {**before[id], "undoable": 0, "saved": True}
        assert (masks(client, clip, 2), masks(client, picture, 1)) == shown
        client.post(f"/api/sessions/{clip}/propagate", json={"start": 2, "stop": 4})
        assert masks(client, clip, 4) == following, "tracked on from the same memories"
    told = [record.getMessage() for record in caplog.records if "is not taken over" in record.getMessage()]
    assert len(told) == 3 and all(any(str(place) in line for line in told) for place in broken)
    assert {path.name for path in (tmp_path / "b").iterdir()} >= {place.name for place in broken}
    assert (tmp_path / "b" / MEDIA / clip).read_bytes() == data and not (tmp_path / "b" / clip).exists()
    assert (tmp_path / "b" / FILE).exists()
