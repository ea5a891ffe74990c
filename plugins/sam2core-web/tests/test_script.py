"""The script that annotation tools fail at: two objects tracked, cancelled, a third added further on, gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import registry
from sam2core.ops import rle
from sam2core.predictors.session import VideoSession

MODEL, SIZE = "sam2core_nano", 256  # as in conftest
CLIP = Path(registry.__file__).parent / "samples" / "chair.mp4"
A, B, C = {"box": [190.0, 120.0, 330.0, 340.0]}, {"points": [[100.0, 180.0]]}, {"points": [[430.0, 200.0]]}
LAST = 16
TOKEN = {"authorization": "Bearer secret"}
Masks = dict[int, dict[int, np.ndarray]]


def run(http: httpx.Client, where: str, *, cancel_at: int | None = None, **body: Any) -> Iterator[tuple[str, Any]]:
    """The events of a run; cancelled, on another connection, when a frame has come."""
    name = ""
    with http.stream("POST", f"{where}/propagate", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                yield name, data
                if name == "frame" and data["frame"] == cancel_at:
                    assert http.post(f"{where}/cancel").json()["resumable"]


def decoded(masks: dict[str, Any]) -> dict[int, np.ndarray]:
    return {int(number): rle.decode(mask["segmentation"]) for number, mask in masks.items()}


def wanted(session: VideoSession, start: int, stop: int) -> Masks:
    return {
        one.frame: {number: mask.numpy() for number, mask in one.masks.items()}
        for one in session.propagate(start, stop)
    }


def same(one: Masks, other: Masks, objects: set[int]) -> None:
    assert set(one) == set(other)
    for frame, masks in one.items():
        for number in objects:
            assert np.array_equal(masks[number], other[frame][number]), (frame, number)


def test_cancel_add_and_go_on(live: Callable[..., Any]) -> None:
    server = live()
    with httpx.Client(base_url=f"{server.address}/api", timeout=120) as http:
        where = f"/sessions/{http.post('/sessions', json={'sample': 'chair.mp4'}).json()['id']}"
        for number, said in ((1, A), (2, B)):
            assert http.post(f"{where}/prompts", json={"object": number, **said}).is_success
        got: Masks = {}
        for name, data in run(http, where, cancel_at=4, start=0, stop=LAST):
            if name == "frame":
                got[data["frame"]] = decoded(data["masks"])
        assert (name, data) == ("done", {"reason": "cancelled"})
        at = max(got)
        assert 4 <= at < LAST - 4 and set(got) == set(range(at + 1)), "the run went on for long"
        assert http.post(f"{where}/propagate", json={"resume": True, "surprise": 1}).status_code == 422
        answer = http.post(f"{where}/prompts", json={"object": 3, "frame": at + 2, **C})
        assert answer.is_success and set(answer.json()["masks"]) == {"3"}
        for name, data in run(http, where, resume=True):
            if name == "frame":
                got[data["frame"]] = decoded(data["masks"])
        assert (name, data) == ("done", {"reason": "finished"})
        assert set(got) == set(range(LAST))
        for frame in range(at + 3, LAST):
            assert set(got[frame]) == {1, 2, 3} and all(mask.any() for mask in got[frame].values()), frame
        for frame in (0, at, LAST - 1):  # and they are still known afterwards
            known = decoded(http.get(f"{where}/masks/{frame}").json()["masks"])
            assert all(np.array_equal(known[number], got[frame][number]) for number in known) and 1 in known
        exported = http.get(f"{where}/export?kind=coco").json()
        assert {one["track_id"] for one in exported["annotations"] if one["image_id"] > at + 3} == {1, 2, 3}

    predictor = registry.predictor(MODEL, "video", image_size=SIZE)
    session = predictor.open(CLIP, keep="all")
    session.prompt(0, 1, **A)
    session.prompt(0, 2, **B)
    alone = session.fork()
    masks = wanted(session, 0, at + 1)
    session.prompt(at + 2, 3, **C)
    masks |= wanted(session, at + 1, LAST)
    same({frame: got[frame] for frame in range(at + 1)}, {frame: masks[frame] for frame in range(at + 1)}, {1, 2})
    same(*({frame: run_[frame] for frame in range(at + 1, LAST)} for run_ in (got, masks)), {1, 2, 3})
    same(got, wanted(alone, 0, LAST), {1, 2})


def test_when_a_caller_goes_away_the_run_stops(live: Callable[..., Any]) -> None:
    """As when a browser's tab is closed: the session stays, and goes on from there with the masks of a run in one."""
    server = live()
    with httpx.Client(base_url=f"{server.address}/api", timeout=120) as http:
        where = f"/sessions/{http.post('/sessions', json={'sample': 'chair.mp4'}).json()['id']}"
        http.post(f"{where}/prompts", json={"object": 1, **A})
        for name, data in run(http, where, stop=LAST):
            if name == "frame" and data["frame"] == 2:
                break
        state = http.post(f"{where}/cancel").json()
        assert state["resumable"] and not state["tracking"]
        seen = max(map(int, state["visible"]["1"]))
        assert 2 <= seen < LAST - 1
        frames = [data["frame"] for name, data in run(http, where, resume=True) if name == "frame"]
        assert frames == list(range(seen + 1, LAST))
        got = {frame: decoded(http.get(f"{where}/masks/{frame}").json()["masks"]) for frame in range(LAST)}
    session = registry.predictor(MODEL, "video", image_size=SIZE).open(CLIP, keep="all")
    session.prompt(0, 1, **A)
    same(got, wanted(session, 0, LAST), {1})


def test_the_same_over_a_websocket(client: TestClient) -> None:
    id = client.post("/api/sessions", json={"sample": "chair.mp4"}).json()["id"]
    got: Masks = {}
    with client.websocket_connect(f"/api/sessions/{id}/socket") as socket:
        for number, said in ((1, A), (2, B)):
            socket.send_json({"call": "prompt", "object": number, **said})
            assert socket.receive_json()["event"] == "masks"
        socket.send_json({"call": "propagate", "stop": LAST})
        while (event := socket.receive_json())["event"] != "done":
            if event["event"] == "frame":
                got[event["frame"]] = decoded(event["masks"])
                if event["frame"] == 3:
                    socket.send_json({"call": "propagate"})
                    socket.send_json({"call": "cancel"})
            elif event["event"] == "error":
                assert "under way" in event["detail"]
        at = max(got)
        assert event["reason"] == "cancelled" and 3 <= at < LAST - 4
        socket.send_json({"call": "prompt", "object": 3, "frame": at + 2, **C})
        assert set(socket.receive_json()["masks"]) == {"3"}
        for wrong in ("{}", "no json", '{"call": "dance"}', '{"call": "prompt", "object": 1, "frame": 99}'):
            socket.send_text(wrong)
            assert socket.receive_json()["event"] == "error"
        socket.send_bytes(b"\xff")
        assert socket.receive_json()["event"] == "error"
        socket.send_json({"call": "propagate", "resume": True})
        while (event := socket.receive_json())["event"] != "done":
            if event["event"] == "frame":
                got[event["frame"]] = decoded(event["masks"])
        assert event["reason"] == "finished"
    session = registry.predictor(MODEL, "video", image_size=SIZE).open(CLIP, keep="all")
    session.prompt(0, 1, **A)
    session.prompt(0, 2, **B)
    masks = wanted(session, 0, at + 1)
    session.prompt(at + 2, 3, **C)
    masks |= wanted(session, at + 1, LAST)
    same(got, masks, {1, 2})
    same(*({frame: run_[frame] for frame in range(at + 1, LAST)} for run_ in (got, masks)), {3})
    with client.websocket_connect("/api/sessions/none/socket") as socket:
        assert "no such session" in socket.receive_json()["detail"]


def test_who_may_open_a_websocket(serve: Callable[..., TestClient]) -> None:
    client = serve(token="secret")
    id = client.post("/api/sessions", json={"sample": "cat.jpg"}, headers=TOKEN).json()["id"]
    for address, headers in (
        (f"/api/sessions/{id}/socket", {}),
        (f"/api/sessions/{id}/socket", {**TOKEN, "origin": "http://evil.example"}),
        (f"/api/sessions/{id}/socket", {**TOKEN, "host": "evil.example"}),
        ("/", TOKEN),
    ):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(address, headers=headers):
            pass
    with client.websocket_connect(f"/api/sessions/{id}/socket", headers=TOKEN) as socket:
        socket.send_json({"call": "propagate"})
        assert "nothing to track" in socket.receive_json()["detail"]
