"""Sessions that are kept come back as they were: in another server over the same folder, or after they were idle."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import stat
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
from sam2core_web.store import FILE, MEDIA, Store, StoreError

import registry
from sam2core.ops import rle
from sam2core.predictors import history

MODEL, SIZE = "sam2core_nano", 256  # as in conftest
SAMPLES = Path(registry.__file__).parent / "samples"
BOX, POINT = [190.0, 120.0, 330.0, 340.0], [430.0, 200.0]


@contextlib.contextmanager
def server(
    folder: Path, *, size: int = SIZE, store: dict[str, Any] | None = None, **options: Any
) -> Iterator[TestClient]:
    app = create_app(Engine(MODEL, image_size=size), limits=Limits(**options), store=Store(folder, **store or {}))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def known(client: TestClient, id: str, frame: int) -> dict[int, np.ndarray]:
    found = client.get(f"/api/sessions/{id}/masks/{frame}").json()["masks"]
    return {int(number): rle.decode(mask["segmentation"]) for number, mask in found.items()}


def rows(folder: Path, statement: str, *values: Any) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / FILE)) as db, db:
        return db.execute(statement, values).fetchall()


def advance(client: TestClient, work: Any, count: int) -> list[int]:
    return [client.portal.call(client.app.state.engine.run, work.advance) for _ in range(count)]


def test_a_clip_comes_back_after_a_restart(tmp_path: Path) -> None:
    """Uploaded, prompted, half tracked; a new server goes on with the masks of a library session that never ended."""
    with server(tmp_path) as client:
        data = (SAMPLES / "chair.mp4").read_bytes()
        id = client.post("/api/uploads?name=chair.mp4", content=data).json()["id"]
        client.post(f"/api/sessions/{id}/prompts", json={"object": 1, "box": BOX, "name": "A", "color": "#112233"})
        work = client.app.state.sessions.get(id).work
        work.begin("forward", 0, 8)
        assert advance(client, work, 4) == [0, 1, 2, 3]
        client.app.state.sessions.get(id).saved = False  # as in a run, which writes once a second and at its end
        before = client.get(f"/api/sessions/{id}").json()
    assert (tmp_path / MEDIA / id).read_bytes() == data
    files = [tmp_path, *tmp_path.iterdir(), tmp_path / MEDIA / id]
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in files), "they are their user's alone"
    with server(tmp_path) as client:
        after = client.get(f"/api/sessions/{id}").json()
        assert after == {**before, "saved": True} and after["resumable"] and after["undoable"] == 1
        assert client.get(f"/api/sessions/{id}/frames/3").status_code == 200
        client.post(f"/api/sessions/{id}/prompts", json={"object": 2, "frame": 4, "points": [POINT]})
        ran = client.post(f"/api/sessions/{id}/propagate", json={"resume": True})
        assert ran.text.count("event: frame") == 4 and '"finished"' in ran.text
        got = {frame: known(client, id, frame) for frame in range(8)}
        assert client.get(f"/api/sessions/{id}").json()["saved"], "a run is saved at its end, not only at the server's"
        numbers = rows(tmp_path, "SELECT DISTINCT object, frame FROM answers")
        assert sorted(numbers) == [(1, frame) for frame in range(8)] + [(2, frame) for frame in range(4, 8)]
        assert client.delete(f"/api/sessions/{id}").status_code == 204
        assert client.get(f"/api/sessions/{id}").status_code == 404
    assert not any(rows(tmp_path, f"SELECT * FROM {table}") for table in ("sessions", "answers", "tensors"))
    assert list((tmp_path / MEDIA).iterdir()) == []
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


def test_every_change_is_on_disk_when_it_is_answered(tmp_path: Path) -> None:
    """A copy of the file after each call, as a server that is killed leaves it: another one shows the same state."""
    with server(tmp_path / "a") as client:
        id = client.post("/api/sessions", json={"sample": "chair.mp4"}).json()["id"]
        path = f"/api/sessions/{id}"
        calls = [
            ("POST", f"{path}/prompts", {"object": 1, "box": BOX}),
            ("POST", f"{path}/prompts", {"object": 2, "points": [POINT]}),
            ("POST", f"{path}/propagate", {"stop": 2}),
            ("PUT", f"{path}/objects/2", {"name": "Floor", "color": "#123456"}),
            ("DELETE", f"{path}/objects/1", None),
            ("POST", f"{path}/undo", None),
        ]
        states = []
        for number, (method, address, body) in enumerate(calls):
            assert client.request(method, address, json=body).status_code == 200
            states.append(client.get(path).json())
            (tmp_path / str(number)).mkdir()
            for file in (tmp_path / "a").glob(f"{FILE}*"):
                (tmp_path / str(number) / file.name).write_bytes(file.read_bytes())
    for number, state in enumerate(states):
        with server(tmp_path / str(number)) as client:
            assert client.get(path).json() == state, calls[number]


def test_undo_and_redo_outlive_the_server(tmp_path: Path) -> None:
    """Each step in a server of its own is what it is in one that never stops: masks, memories, what is tracked on."""

    def steps(path: str) -> list[tuple[str, str, Any]]:
        return [
            ("POST", f"{path}/prompts", {"object": 1, "box": BOX, "name": "Chair"}),
            ("POST", f"{path}/propagate", {"stop": 3}),
            ("POST", f"{path}/prompts", {"object": 1, "frame": 1, "points": [POINT], "labels": [0]}),
            ("POST", f"{path}/prompts", {"object": 2, "frame": 1, "points": [POINT]}),
            ("DELETE", f"{path}/objects/1", None),
            ("POST", f"{path}/undo", None),
            ("POST", f"{path}/undo", None),
            ("POST", f"{path}/undo", None),
            ("POST", f"{path}/redo", None),
            ("POST", f"{path}/undo", None),
            ("POST", f"{path}/propagate", {"start": 3, "stop": 5}),
        ]

    with server(tmp_path / "one") as client:
        path = f"/api/sessions/{client.post('/api/sessions', json={'sample': 'chair.mp4'}).json()['id']}"
        wanted = []
        for method, address, body in steps(path):
            assert client.request(method, address, json=body).status_code == 200
            told = client.get(path).json()
            wanted.append(({**told, "id": ""}, [known(client, path.rpartition("/")[2], frame) for frame in range(5)]))
    with server(tmp_path / "many") as client:
        id = client.post("/api/sessions", json={"sample": "chair.mp4"}).json()["id"]
    path = f"/api/sessions/{id}"
    for (method, address, body), (state, masks) in zip(steps(path), wanted, strict=True):
        with server(tmp_path / "many") as client:
            assert client.request(method, address, json=body).status_code == 200
            assert {**client.get(path).json(), "id": ""} == state, (method, address)
            for frame, shown in enumerate(masks):
                got = known(client, id, frame)
                assert set(got) == set(shown) and all(np.array_equal(got[one], shown[one]) for one in shown)


def test_a_file_without_what_could_be_undone_is_read(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        id = client.post("/api/sessions", json={"sample": "chair.mp4"}).json()["id"]
        client.post(f"/api/sessions/{id}/prompts", json={"object": 1, "box": BOX})
        before = client.get(f"/api/sessions/{id}").json()
    ((text,),) = rows(tmp_path, "SELECT state FROM sessions")
    state = json.loads(text)
    for tree in (state, state["video"]):
        del tree["undo"], tree["redo"]
    rows(tmp_path, "UPDATE sessions SET state = ?", json.dumps(state))
    rows(tmp_path, "DROP TABLE past")
    rows(tmp_path, "PRAGMA user_version = 1")
    with server(tmp_path) as client:
        assert client.get(f"/api/sessions/{id}").json() == {**before, "undoable": 0}
        assert client.post(f"/api/sessions/{id}/prompts", json={"object": 1, "points": [POINT]}).status_code == 200


def test_tensors_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a frame adds does not grow with the video, and what nothing names any more is removed."""
    with server(tmp_path) as client:
        id = client.post("/api/sessions", json={"sample": "chair.mp4"}).json()["id"]
        client.post(f"/api/sessions/{id}/prompts", json={"object": 1, "box": BOX})
        sizes = []
        for stop in (2, 4, 6):
            client.post(f"/api/sessions/{id}/propagate", json={"start": stop - 2, "stop": stop})
            sizes.append(rows(tmp_path, "SELECT count(*), max(number) FROM tensors")[0])
        assert sizes[2][0] - sizes[1][0] == sizes[1][0] - sizes[0][0] == sizes[2][1] - sizes[1][1]
        monkeypatch.setattr(history, "UNDO_STEPS", 1)
        client.delete(f"/api/sessions/{id}/objects/1")
        assert rows(tmp_path, "SELECT count(*) FROM tensors")[0] == (sizes[2][0],), "undo would bring them back"
        assert rows(tmp_path, "SELECT count(*) FROM past") == [(6,)]
        client.post(f"/api/sessions/{id}/prompts", json={"object": 2, "points": [POINT]})
        assert rows(tmp_path, "SELECT count(*) FROM tensors")[0][0] < sizes[0][0]
        assert rows(tmp_path, "SELECT count(*) FROM past") == [(0,)]


def test_the_list_shows_what_was_done(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        ids = [client.post("/api/sessions", json={"sample": name}).json()["id"] for name in ("cat.jpg", "coffee.jpg")]
        assert client.get("/api/sessions").json() == [], "nothing was done in them"
        client.post(f"/api/sessions/{ids[0]}/prompts", json={"object": 1, "points": [[220, 150]]})
    with server(tmp_path) as client:
        (only,) = client.get("/api/sessions").json()
        assert only["id"] == ids[0] and only["objects"] == 1 and abs(only["used"] - time.time()) < 60
        pictures = [client.get(f"/api/sessions/{id}/thumbnail") for id in ids]
        assert all(one.content[:3] == b"\xff\xd8\xff" for one in pictures)
        assert not len(client.app.state.sessions), "to look at them does not bring them back"
        assert client.delete(f"/api/sessions/{ids[0]}").status_code == 204 and client.get("/api/sessions").json() == []
        assert client.get(f"/api/sessions/{ids[0]}/thumbnail").status_code == 404
        assert client.delete(f"/api/sessions/{ids[0]}").status_code == 404


def test_the_oldest_rest_when_a_client_opens_more_than_he_may(tmp_path: Path) -> None:
    with server(tmp_path, sessions_per_client=2) as client:
        ids = [client.post("/api/sessions", json={"sample": "cat.jpg"}).json()["id"] for _ in range(4)]
        assert len(client.app.state.sessions) == 2
        assert all(client.get(f"/api/sessions/{id}").status_code == 200 for id in ids)


def test_another_server_over_the_same_folder_overwrites_nothing(tmp_path: Path) -> None:
    with server(tmp_path) as one, server(tmp_path) as other:
        id = one.post("/api/sessions", json={"sample": "cat.jpg"}).json()["id"]
        body = {"object": 1, "points": [[220, 150]]}
        assert one.post(f"/api/sessions/{id}/prompts", json=body).status_code == 200
        assert other.post(f"/api/sessions/{id}/prompts", json={**body, "object": 2}).status_code == 200
        refused = one.post(f"/api/sessions/{id}/prompts", json={**body, "object": 3})
        assert refused.status_code == 409 and "another server" in refused.json()["detail"]
        assert set(known(one, id, 0)) == {1, 2}, "it is loaded again"
        assert other.delete(f"/api/sessions/{id}").status_code == 204
        assert one.post(f"/api/sessions/{id}/prompts", json=body).status_code == 409
        assert one.get(f"/api/sessions/{id}").status_code == 404


def test_what_cannot_come_back_says_why(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        ids = [client.post("/api/sessions", json={"sample": name}).json()["id"] for name in ("chair.mp4",) * 3]
        client.post(f"/api/sessions/{ids[0]}/prompts", json={"object": 1, "box": BOX})
    rows(tmp_path, "UPDATE sessions SET state = ? WHERE id = ?", '{"file": 1', ids[1])
    rows(tmp_path, "UPDATE sessions SET state = replace(state, 'chair.mp4', ?) WHERE id = ?", "../specs/a.yaml", ids[2])
    with server(tmp_path, size=192) as client:
        for id, why in zip(ids, ("another model", f"in {FILE} is damaged", "no such file"), strict=True):
            answer = client.get(f"/api/sessions/{id}")
            assert answer.status_code == 409 and why in answer.json()["detail"], answer.text
            assert str(tmp_path) not in answer.text
        for id in ("x" * 22, "..", "..%2f..%2fetc", ids[0] + "a"):
            assert client.get(f"/api/sessions/{id}").status_code == 404
        assert not len(client.app.state.sessions)
        assert client.post("/api/sessions", json={"sample": "cat.jpg"}).status_code == 201


WRONG: list[Any] = [[], None, {}, "x", -1, 1e400, 2**40]


def edits(tree: Any, turn: Iterator[Any] | None = None) -> Iterator[Any]:
    """Every place of a tree of JSON with two wrong values, the tree itself first; of lists, the first two items."""
    turn = turn or itertools.cycle(WRONG)
    yield from itertools.islice(turn, 2)
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in list(items):
        for changed in edits(value, turn):
            copy = dict(tree) if isinstance(tree, dict) else list(tree)
            copy[key] = changed
            yield copy
        if isinstance(tree, dict):
            yield {name: one for name, one in tree.items() if name != key}


def test_tampered_sessions_are_refused_or_work(tmp_path: Path) -> None:
    """State, masks and tensors, place by place: never a 5xx, and a refusal names the file."""
    with server(tmp_path) as client:
        id = client.post("/api/sessions", json={"sample": "chair.mp4"}).json()["id"]
        path = f"/api/sessions/{id}"
        client.post(f"{path}/prompts", json={"object": 1, "box": BOX, "points": [[260, 200]], "labels": [1]})
        client.post(f"{path}/propagate", json={"stop": 2})
        ((text,),) = rows(tmp_path, "SELECT state FROM sessions")
        sessions = client.app.state.sessions

        def statuses() -> list[int]:
            if id in sessions:
                client.portal.call(sessions.forget, sessions.get(id))
            calls = ("GET", ""), ("GET", "/masks/0"), ("GET", "/export?kind=coco"), ("GET", "/thumbnail")
            answers = [client.request(method, path + rest) for method, rest in calls]
            answers.append(client.get("/api/sessions"))
            for one in answers:
                assert one.status_code < 500 and str(tmp_path) not in one.text, one.text
            if answers[0].status_code != 200:
                assert answers[0].status_code == 409 and "cannot come back" in answers[0].json()["detail"]
            return [one.status_code for one in answers]

        refused = 0
        for changed in edits({**json.loads(text), "video": {}}):
            rows(tmp_path, "UPDATE sessions SET state = ?", json.dumps(changed))
            refused += statuses()[0] == 409
        assert refused > 50
        rows(tmp_path, "UPDATE sessions SET state = ?", text)
        assert statuses() == [200] * 5
        ((answer,),) = rows(tmp_path, "SELECT answer FROM answers WHERE frame = 0")
        for changed in edits(json.loads(answer)):
            rows(tmp_path, "UPDATE answers SET answer = ? WHERE frame = 0", json.dumps(changed))
            statuses()
        rows(tmp_path, "UPDATE answers SET answer = ? WHERE frame = 0", answer)
        rows(tmp_path, "UPDATE tensors SET data = substr(data, 1, length(data) - 1)")
        assert statuses()[0] == 409


@pytest.mark.parametrize(
    "content", [b"no database, but long enough to be one" * 200, b"SQLite format 3\0" + b"\7" * 5000]
)
def test_a_file_that_is_no_store_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StoreError, match=FILE):
        Store(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_newer_store_and_a_folder_that_cannot_be_are_refused(tmp_path: Path) -> None:
    Store(tmp_path / "a").close()
    rows(tmp_path / "a", "PRAGMA user_version = 7")
    with pytest.raises(StoreError, match="schema 7"):
        Store(tmp_path / "a")
    (tmp_path / "b").write_text("a file")
    with pytest.raises(StoreError, match="sessions cannot be kept in"):
        Store(tmp_path / "b")


def test_sessions_that_nobody_uses_or_that_have_no_room_are_removed(tmp_path: Path) -> None:
    with server(tmp_path) as client:
        data = (SAMPLES / "cat.jpg").read_bytes()
        ids = [client.post(f"/api/uploads?name={name}.jpg", content=data).json()["id"] for name in "abc"]
    (tmp_path / MEDIA / "half").write_bytes(b"what an upload left")
    store = Store(tmp_path, seconds=1000)
    store.expire()
    assert len(store.entries(9)) == 3 and len(list((tmp_path / MEDIA).iterdir())) == 4
    store.size = 2 * len(data) + 5
    store.expire(live=[ids[0]])
    assert [one.id for one in store.entries(9)] == [ids[2], ids[0]], "the one used last stays, and the one that is open"
    store.size, store.clock = 2**40, lambda: time.time() + 2 * 86400
    store.expire()
    assert store.entries(9) == [] and list((tmp_path / MEDIA).iterdir()) == []
    store.close()
