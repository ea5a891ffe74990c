"""The ML backend through Label Studio's own package, called as Label Studio calls it: POST /setup, POST /predict."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("label_studio_ml.api")

from sam2core_labelstudio import brush
from sam2core_labelstudio.answers import Answers
from sam2core_labelstudio.command import application

PICTURE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image"><Label value="Cat"/><Label value="Cup"/></BrushLabels>
  <KeyPointLabels name="points" toName="image" smart="true"><Label value="Cat"/><Label value="Cup"/></KeyPointLabels>
  <RectangleLabels name="boxes" toName="image" smart="true"><Label value="Cat"/><Label value="Cup"/></RectangleLabels>
</View>"""
CLIP = """<View>
  <Labels name="labels" toName="video"><Label value="Chair"/><Label value="Other"/></Labels>
  <Video name="video" value="$clip" frameRate="30"/>
  <VideoRectangle name="box" toName="video" smart="true"/>
</View>"""
HEIGHT, WIDTH = 300, 451
BOX, POINT = (190.0, 120.0, 330.0, 340.0), (430.0, 200.0)
CLIP_SIZE, COUNT = (360, 540), 40


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def files(server: SimpleNamespace) -> Iterator[str]:
    """The address of a web server that has the images and videos, as a task's data has it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(server.samples))) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_address[1]}"
        one.shutdown()
        thread.join()


@pytest.fixture
def backend(server: SimpleNamespace, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """`ask(config, task, drawn)` is what Label Studio gets from the backend; `answers` is behind it."""
    answers = Answers(server.client)
    with application(answers, folder=str(tmp_path)).test_client() as http_:

        def ask(config: str, task: dict[str, Any], drawn: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
            setup = {"project": "7.1700000000", "schema": config, "hostname": "", "access_token": ""}
            assert http_.post("/setup", json=setup).status_code == 200
            context = None if drawn is None else {"result": drawn}
            body = {"tasks": [task], "project": "7.1700000000", "label_config": config, "params": {"context": context}}
            answer = http_.post("/predict", json=body)
            assert answer.status_code == 200, answer.get_data(as_text=True)
            return answer.get_json()["results"]

        assert http_.get("/health").get_json()["status"] == "UP"
        yield SimpleNamespace(ask=ask, answers=answers, http=http_)
    answers.close()
    assert len(server.app.state.sessions) == 0


def key_point(x: float, y: float, label: str, positive: bool = True) -> dict[str, Any]:
    value = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.3, "keypointlabels": [label]}
    common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "p", "type": "keypointlabels", "from_name": "points", "to_name": "image", "value": value,
            "is_positive": positive, **common}  # fmt: skip


def rectangle(x0: float, y0: float, x1: float, y1: float, label: str) -> dict[str, Any]:
    value = {"x": 100 * x0 / WIDTH, "y": 100 * y0 / HEIGHT, "width": 100 * (x1 - x0) / WIDTH,
             "height": 100 * (y1 - y0) / HEIGHT, "rotation": 0, "rectanglelabels": [label]}  # fmt: skip
    return {"id": "r", "type": "rectanglelabels", "from_name": "boxes", "to_name": "image", "value": value}


def shown(region: dict[str, Any]) -> np.ndarray:
    """The mask that Label Studio shows of a brush region."""
    assert region["type"] == "brushlabels" and region["value"]["format"] == "rle"
    assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
    return brush.decode(region["value"]["rle"], (HEIGHT, WIDTH))


def test_a_picture(backend: SimpleNamespace, files: str, server: SimpleNamespace) -> None:
    handle = server.image.encode(server.samples / "cat.jpg")
    task = {"id": 1, "data": {"image": f"{files}/cat.jpg"}}
    assert backend.ask(PICTURE, task, None) == [{"result": [], "score": 0.0}]

    (found,) = backend.ask(PICTURE, task, [key_point(220, 150, "Cat")])
    (region,) = found["result"]
    wanted = handle.predict(points=[[220, 150]])
    assert np.array_equal(shown(region), wanted.masks[0, 0].numpy()) and shown(region).any()
    assert region["value"]["brushlabels"] == ["Cat"] and (region["from_name"], region["to_name"]) == ("brush", "image")
    assert found["score"] == pytest.approx(float(wanted.iou[0, 0]), abs=1e-3)

    drawn = [rectangle(60, 20, 300, 280, "Cup"), key_point(20, 20, "Cup", positive=False)]
    (region,) = backend.ask(PICTURE, task, drawn)[0]["result"]
    wanted = handle.predict(box=[60, 20, 300, 280], points=[[20, 20]], labels=[0])
    assert np.array_equal(shown(region), wanted.masks[0, 0].numpy()) and region["value"]["brushlabels"] == ["Cup"]
    assert len(server.app.state.sessions) == 1, "the image was opened once"

    again = backend.ask(PICTURE, task, [region])[0]["result"][0]
    assert np.array_equal(shown(again), shown(region)), "a brush region is its own answer"
    two = backend.ask(PICTURE, task, [rectangle(60, 20, 300, 280, "Cat"), rectangle(300, 20, 440, 280, "Cat")])
    assert len(two[0]["result"]) == 2


def test_a_session_that_the_server_dropped_is_opened_again(
    backend: SimpleNamespace, files: str, server: SimpleNamespace
) -> None:
    task = {"id": 1, "data": {"image": f"{files}/cat.jpg"}}
    first = backend.ask(PICTURE, task, [key_point(220, 150, "Cat")])[0]["result"][0]
    (opened,) = backend.answers._opened.values()
    opened.session.close()
    second = backend.ask(PICTURE, task, [key_point(220, 150, "Cat")])[0]["result"][0]
    assert np.array_equal(shown(first), shown(second))


def track(id: str, label: str, **boxes: tuple[float, float, float, float]) -> dict[str, Any]:
    """A region with key frames: frame_1=(x0, y0, x1, y1) in pixels."""
    height, width = CLIP_SIZE
    keys = [
        {"frame": int(name.removeprefix("frame_")), "x": 100 * x0 / width, "y": 100 * y0 / height, "rotation": 0,
         "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height, "enabled": True, "time": 0.0}
        for name, (x0, y0, x1, y1) in boxes.items()
    ]  # fmt: skip
    value = {"framesCount": COUNT, "duration": COUNT / 30, "sequence": keys, "labels": [label]}
    return {
        "id": id,
        "type": "videorectangle",
        "from_name": "box",
        "to_name": "video",
        "origin": "manual",
        "value": value,
    }


def boxes(session: Any, number: int, start: int, stop: int) -> dict[int, list[float]]:
    """The library's own boxes in percent, by Label Studio's frame."""
    height, width = CLIP_SIZE
    found = {}
    for result in session.propagate(start, stop):
        mask = result.masks[number].numpy()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        found[result.frame + 1] = [
            100 * columns[0] / width, 100 * rows[0] / height,
            100 * (columns[-1] + 1 - columns[0]) / width, 100 * (rows[-1] + 1 - rows[0]) / height,
        ]  # fmt: skip
    return found


def test_a_clip(backend: SimpleNamespace, files: str, server: SimpleNamespace) -> None:
    """Tracked; an object added later; a key frame moved: what was given before is no prompt, what the user set is."""
    task = {"id": 2, "data": {"clip": f"{files}/chair.mp4"}}
    backend.answers.frames = 8
    drawn = [track("a", "Chair", frame_1=BOX)]
    (found,) = backend.ask(CLIP, task, drawn)
    (region,) = found["result"]
    assert (region["id"], region["type"]) == ("a", "videorectangle") and region["value"]["labels"] == ["Chair"]
    assert region["value"]["framesCount"] == COUNT and 0 < found["score"] <= 1
    session = server.video.open(server.samples / "chair.mp4", keep="all")
    session.prompt(0, 1, box=list(BOX))
    wanted = boxes(session, 1, 0, 8)
    keys = {key["frame"]: key for key in region["value"]["sequence"]}
    assert set(keys) == set(wanted) == set(range(1, 9))
    for frame, box in wanted.items():
        key = keys[frame]
        assert [key[name] for name in ("x", "y", "width", "height")] == pytest.approx(box), frame
        assert key["enabled"] and key["rotation"] == 0 and key["time"] == pytest.approx((frame - 1) / 30)

    x, y = POINT
    later = {"id": "b", "type": "keypointlabels", "from_name": "points", "to_name": "video",
             "value": {"frame": 6, "x": 100 * x / 540, "y": 100 * y / 360, "labels": ["Other"]}}  # fmt: skip
    one, two = backend.ask(CLIP, task, [region, later])[0]["result"]
    assert two["type"] == "videorectangle" and two["value"]["labels"] == ["Other"]
    assert [key["frame"] for key in two["value"]["sequence"]][:1] == [6]
    assert one["value"]["sequence"][:5] == region["value"]["sequence"][:5]
    session.prompt(5, 2, points=[list(POINT)])
    wanted = boxes(session, 1, 5, 13)
    for key in one["value"]["sequence"][5:]:
        assert [key[name] for name in ("x", "y", "width", "height")] == pytest.approx(wanted[key["frame"]]), key[
            "frame"
        ]
    state = next(iter(backend.answers._opened.values())).session.state()
    assert [(said["object"], said["frame"]) for said in state["prompts"]] == [(1, 0), (2, 5)]

    assert backend.ask(CLIP, task, [one, two])[0]["result"] == [one, two], "nothing changed: nothing is tracked"
    moved = track("a", "Chair", frame_9=(200.0, 130.0, 320.0, 330.0))["value"]["sequence"]
    sequence = [key for key in one["value"]["sequence"] if key["frame"] != 9] + moved
    one["value"]["sequence"] = sorted(sequence, key=lambda key: key["frame"])
    backend.ask(CLIP, task, [one])
    state = next(iter(backend.answers._opened.values())).session.state()
    assert [(said["object"], said["frame"]) for said in state["prompts"]] == [(1, 0), (1, 8)], "b was removed"


def test_another_frame_rate(backend: SimpleNamespace, files: str) -> None:
    """Label Studio counts 20 frames where the video has 40: each of its frames is every other one of the video's."""
    task = {"id": 2, "data": {"clip": f"{files}/chair.mp4"}}
    region = track("a", "Chair", frame_1=BOX)
    region["value"] |= {"framesCount": COUNT // 2}
    backend.answers.frames = 9
    (found,) = backend.ask(CLIP, task, [region])
    keys = found["result"][0]["value"]["sequence"]
    assert [key["frame"] for key in keys] == [1, 2, 3, 4, 5]
    assert [key["time"] for key in keys] == pytest.approx([number / 15 for number in range(5)])


def test_a_configuration_without_a_place_for_masks(backend: SimpleNamespace, files: str) -> None:
    control = '<Choices name="choice" toName="image"><Choice value="x"/></Choices>'
    config = f'<View><Image name="image" value="$image"/>{control}</View>'
    backend.http.post("/setup", json={"project": "7.1", "schema": config})
    body = {"tasks": [{"id": 1, "data": {"image": f"{files}/cat.jpg"}}], "project": "7.1", "label_config": config,
            "params": {"context": {"result": [key_point(1, 1, "Cat")]}}}  # fmt: skip
    answer = backend.http.post("/predict", json=body)
    assert answer.status_code >= 400 and "BrushLabels" in answer.get_data(as_text=True)
