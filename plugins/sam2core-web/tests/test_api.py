"""The API gives the library's own masks, and keeps sessions apart."""

from __future__ import annotations

import gc
import io
import json
import time
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import registry
from sam2core.ops import rle

MODEL, SIZE = "sam2core_nano", 256  # as in conftest
SAMPLES = Path(registry.__file__).parent / "samples"
BOX_A, POINT_B, POINT_C = [190.0, 120.0, 330.0, 340.0], [100.0, 180.0], [430.0, 200.0]


def opened(client: TestClient, sample: str) -> dict[str, Any]:
    answer = client.post("/api/sessions", json={"sample": sample})
    assert answer.status_code == 201, answer.text
    return answer.json()


def prompted(client: TestClient, id: str, **body: Any) -> dict[int, np.ndarray]:
    answer = client.post(f"/api/sessions/{id}/prompts", json=body)
    assert answer.status_code == 200, answer.text
    return masks(answer.json()["masks"])


def masks(found: dict[str, Any]) -> dict[int, np.ndarray]:
    return {int(number): rle.decode(one["segmentation"]) for number, one in found.items()}


def events(client: TestClient, id: str, **body: Any) -> Any:
    """The events of a run, as they come."""
    with client.stream("POST", f"/api/sessions/{id}/propagate", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_an_image_gets_the_masks_of_the_library(client: TestClient) -> None:
    id = opened(client, "cat.jpg")["id"]
    handle = registry.predictor(MODEL, "image", image_size=SIZE).encode(SAMPLES / "cat.jpg")
    first = prompted(client, id, object=1, points=[[220, 150]], labels=[1])
    assert np.array_equal(first[1], handle.predict(points=[[220, 150]]).masks[0, 0].numpy())
    both = prompted(client, id, object=2, box=[60, 20, 300, 280], points=[[20, 20]], labels=[0])
    wanted = handle.predict(points=[[20, 20]], labels=[0], box=[60, 20, 300, 280]).masks[0, 0].numpy()
    assert np.array_equal(both[2], wanted) and np.array_equal(both[1], first[1]) and wanted.any()
    seen = client.post(f"/api/sessions/{id}/preview", json={"point": [100, 100]}).json()
    assert np.array_equal(rle.decode(seen["segmentation"]), handle.predict(points=[[100, 100]]).masks[0, 0].numpy())


def test_everything_and_a_mask_as_a_prompt(client: TestClient) -> None:
    id = opened(client, "coffee.jpg")["id"]
    found = client.post(f"/api/sessions/{id}/everything", json={"points_per_side": 6}).json()["masks"]
    generator = registry.predictor(MODEL, "automask", image_size=SIZE, points_per_side=6)
    wanted = sorted(generator.generate(SAMPLES / "coffee.jpg"), key=lambda one: -one.area)
    assert [one["segmentation"] for one in found] == [one.coco for one in wanted] and found
    kept = prompted(client, id, object=7, mask=found[0]["segmentation"], name="cup")
    assert np.array_equal(kept[7], wanted[0].mask)
    wrong = {"size": [10**9, 10**9], "counts": rle.compress([10**18])}
    assert client.post(f"/api/sessions/{id}/prompts", json={"object": 1, "mask": wrong}).status_code == 422


def test_two_objects_cancel_a_third_and_on(client: TestClient) -> None:
    """A, B tracked; cancelled; C added; resumed: the masks of a library session that was treated so."""
    id = opened(client, "chair.mp4")["id"]
    prompted(client, id, object=1, box=BOX_A, name="A")
    prompted(client, id, object=2, points=[POINT_B], name="B")
    got: dict[int, dict[int, np.ndarray]] = {}
    last = None
    for name, data in events(client, id, stop=8):
        if name == "frame":
            got[data["frame"]] = masks(data["masks"])
            if data["frame"] == 3:
                client.post(f"/api/sessions/{id}/cancel")
        last = name, data.get("reason")
    # the test client reads the stream as a whole: the run may be done before the call that cancels it
    assert last is not None and last[0] == "done"
    position = max(got)
    prompted(client, id, object=3, frame=position, points=[POINT_C], name="C")
    for name, data in events(client, id, start=position + 1, stop=position + 4):
        if name == "frame":
            got[data["frame"]] = masks(data["masks"])

    session = registry.predictor(MODEL, "video", image_size=SIZE).open(SAMPLES / "chair.mp4", keep="all")
    session.prompt(0, 1, box=BOX_A)
    session.prompt(0, 2, points=[POINT_B])
    wanted = {one.frame: one.masks for one in session.propagate(0, position + 1)}
    session.prompt(position, 3, points=[POINT_C])
    wanted |= {one.frame: one.masks for one in session.propagate(position + 1, position + 4)}
    assert set(got) == set(wanted)
    for frame, objects in wanted.items():
        assert set(got[frame]) == set(objects)
        for number, mask in objects.items():
            assert np.array_equal(got[frame][number], mask.numpy()), (frame, number)
    assert set(got[position + 3]) == {1, 2, 3}


def test_both_directions_and_undo(client: TestClient) -> None:
    id = opened(client, "chair.mp4")["id"]
    prompted(client, id, object=1, frame=2, box=BOX_A)
    backward = [data["frame"] for name, data in events(client, id, direction="backward") if name == "frame"]
    assert backward == [2, 1, 0]
    prompted(client, id, object=1, frame=1, points=[POINT_C])
    before = client.get(f"/api/sessions/{id}").json()
    assert before["undoable"] == 2
    after = client.post(f"/api/sessions/{id}/undo").json()
    assert after["undoable"] == 1 and [said["frame"] for said in after["prompts"]] == [2]
    assert set(after["visible"]["1"]) == {"0", "1", "2"}
    assert client.post(f"/api/sessions/{id}/propagate", json={"direction": "backward", "start": 0}).status_code == 422
    assert client.post(f"/api/sessions/{id}/propagate", json={"resume": True}).status_code == 409


@pytest.mark.parametrize("kind", ["palette", "coco", "overlay", "cutouts"])
@pytest.mark.parametrize("sample", ["cat.jpg", "chair.mp4"])
def test_exports(client: TestClient, sample: str, kind: str) -> None:
    id = opened(client, sample)["id"]
    address = f"/api/sessions/{id}/export?kind={kind}"
    assert client.get(address).status_code == 409
    mask = prompted(client, id, object=1, points=[[220, 150]], name="it", color="#102030")[1]
    answer = client.get(address)
    assert answer.status_code == 200
    data = io.BytesIO(answer.content)
    if kind == "coco":
        document = answer.json()
        (only,) = document["annotations"]
        assert np.array_equal(rle.decode(only["segmentation"]), mask) and only["area"] == mask.sum()
        x, y, width, height = only["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum() and document["categories"][0]["name"] == "it"
        assert document["images"][0]["file_name"] == ("cat.jpg" if sample == "cat.jpg" else "chair/00000.png")
        prompted(client, id, object=2, points=[[100, 100]], name="it")
        assert [one["name"] for one in client.get(address).json()["categories"]] == ["it"]
    elif kind == "overlay":
        assert answer.content[:4] == b"\x89PNG" if sample == "cat.jpg" else answer.content[4:8] == b"ftyp"
    else:
        with zipfile.ZipFile(data) as archive:
            (name,) = archive.namelist()
            image = np.array(Image.open(io.BytesIO(archive.read(name))))
        assert np.array_equal(image[..., 3] == 255 if kind == "cutouts" else image == 1, mask)
    assert not [path for path in client.app.state.folder.iterdir() if path.is_dir()]


def test_two_clients_mixed(client: TestClient) -> None:
    one, two = opened(client, "cat.jpg")["id"], opened(client, "coffee.jpg")["id"]
    cat = [prompted(client, one, object=1, points=[[220, 150]])[1]]
    cup = [prompted(client, two, object=1, points=[[300, 200]])[1]]
    for _ in range(2):
        cat.append(prompted(client, one, object=1, points=[[220, 150]])[1])
        cup.append(prompted(client, two, object=1, points=[[300, 200]])[1])
    assert all(np.array_equal(cat[0], mask) for mask in cat) and all(np.array_equal(cup[0], mask) for mask in cup)
    assert client.delete(f"/api/sessions/{one}").status_code == 204
    assert client.get(f"/api/sessions/{one}").status_code == 404
    assert np.array_equal(prompted(client, two, object=1, points=[[300, 200]])[1], cup[0])


def test_a_failure_stays_in_its_session(serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    one, two = opened(client, "chair.mp4")["id"], opened(client, "cat.jpg")["id"]
    prompted(client, one, object=1, box=BOX_A)

    def fail() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(client.app.state.sessions.get(one).work, "advance", fail)
    assert list(events(client, one))[-1] == ("error", {"detail": "out of memory"})
    assert prompted(client, two, object=1, points=[[220, 150]])[1].any()
    monkeypatch.undo()
    assert list(events(client, one, stop=2))[-1] == ("done", {"reason": "finished"})


def test_idle_sessions_are_dropped(serve: Callable[..., TestClient]) -> None:
    client = serve(limits={"idle_seconds": 60.0})
    sessions = client.app.state.sessions
    id = opened(client, "cat.jpg")["id"]
    assert client.portal.call(sessions.drop_idle) == 0
    sessions.clock = lambda: time.monotonic() + 61
    assert client.portal.call(sessions.drop_idle) == 1
    assert client.get(f"/api/sessions/{id}").status_code == 404 and not len(sessions)


def test_nothing_of_a_closed_session_stays(client: TestClient) -> None:
    works = []
    for sample in ("chair.mp4", "cat.jpg"):
        id = opened(client, sample)["id"]
        prompted(client, id, object=1, points=[POINT_B])
        if sample == "chair.mp4":
            assert list(events(client, id, stop=2))[-1][0] == "done"
        works.append(weakref.ref(client.app.state.sessions.get(id).work))
        client.delete(f"/api/sessions/{id}")
    client.get("/api/about")
    gc.collect()
    assert [work() for work in works] == [None, None]


def test_sessions_and_objects_are_bounded(serve: Callable[..., TestClient]) -> None:
    client = serve(limits={"sessions_per_client": 2, "objects": 1})
    id, other = (opened(client, "cat.jpg")["id"] for _ in range(2))
    for one in (id, other):
        prompted(client, one, object=1, points=[[220, 150]])
    assert client.post("/api/sessions", json={"sample": "cat.jpg"}).status_code == 429
    body = {"object": 2, "points": [[220, 150]]}
    assert client.post(f"/api/sessions/{id}/prompts", json=body).status_code == 409
    client.delete(f"/api/sessions/{id}")
    empty = opened(client, "cat.jpg")["id"]
    opened(client, "cat.jpg")  # takes the place of the one in which nothing was done
    assert client.get(f"/api/sessions/{empty}").status_code == 404
    assert [one["id"] for one in client.get("/api/sessions").json()] == [other]


def test_objects_are_named_and_removed(client: TestClient) -> None:
    id = opened(client, "cat.jpg")["id"]
    prompted(client, id, object=1, points=[[220, 150]])
    named = client.put(f"/api/sessions/{id}/objects/1", json={"name": "Chelsea", "color": "#aabbcc"}).json()
    assert named["objects"] == [{"id": 1, "name": "Chelsea", "color": "#aabbcc"}]
    gone = client.delete(f"/api/sessions/{id}/objects/1").json()
    assert gone["objects"] == [] and gone["undoable"] == 2
    assert client.delete(f"/api/sessions/{id}/objects/1").status_code == 404


def test_undo_brings_a_removed_object_back_where_it_stood(client: TestClient) -> None:
    """In a video that is half tracked: what follows is as if it had never been removed."""
    ids = [opened(client, "chair.mp4")["id"] for _ in range(2)]
    for id in ids:
        prompted(client, id, object=1, box=BOX_A)
        prompted(client, id, object=2, points=[POINT_C])
        list(events(client, id, stop=3))
    before = client.get(f"/api/sessions/{ids[0]}").json()
    assert [one["id"] for one in client.delete(f"/api/sessions/{ids[0]}/objects/1").json()["objects"]] == [2]
    after = client.post(f"/api/sessions/{ids[0]}/undo").json()
    assert after == {**before, "redoable": 1}
    runs = [[data["masks"] for name, data in events(client, id, start=3, stop=6) if name == "frame"] for id in ids]
    assert len(runs[0]) == 3 and runs[0] == runs[1]


@pytest.mark.parametrize(
    "body",
    [
        {"object": 1},
        {"object": 0, "points": [[1, 1]]},
        {"object": 1, "points": [[1, 1]], "labels": [1, 0]},
        {"object": 1, "frame": 9, "points": [[1, 1]]},
        {"object": 1, "points": [[1, 1]], "color": "red"},
        {"object": 1, "box": [50, 50, 10, 10]},
        {"object": 1, "mask": {"size": [300, 451], "counts": "~~"}},
        {"object": 1, "points": [[1, 1]], "surprise": 1},
        {"object": True, "points": [[1, 1]]},
        {"object": 1, "frame": False, "points": [[1, 1]]},
        {"object": 1, "points": [["1", 1]]},
        {"object": 1, "points": [[1, 1]], "labels": [True]},
    ],
)
def test_prompts_that_make_no_sense(client: TestClient, body: dict[str, Any]) -> None:
    id = opened(client, "cat.jpg")["id"]
    answer = client.post(f"/api/sessions/{id}/prompts", json=body)
    assert answer.status_code == 422 and answer.json()["detail"]
    assert client.get(f"/api/sessions/{id}").json()["objects"] == []


def test_a_stopped_run_goes_on_in_both_directions(client: TestClient) -> None:
    id = opened(client, "chair.mp4")["id"]
    prompted(client, id, object=1, frame=2, box=BOX_A)
    work = client.app.state.sessions.get(id).work
    work.begin("both", None, None)
    work.legs[0] = (2, 6, "forward")
    assert [work.advance() for _ in range(2)] == [2, 3]
    assert client.get(f"/api/sessions/{id}").json()["resumable"]
    rest = [data["frame"] for name, data in events(client, id, resume=True) if name == "frame"]
    assert rest == [4, 5, 1, 0]
    assert not client.get(f"/api/sessions/{id}").json()["resumable"]
