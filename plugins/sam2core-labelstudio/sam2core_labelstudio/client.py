"""A client of sam2core's HTTP API in one file: standard library only, to embed in any annotation tool.

    with Client().open("clip.mp4") as video:
        clip.prompt(1, frame=0, box=(190, 120, 330, 340))
        for frame in clip.track():
            draw(frame.number, frame.masks[1].runs())

Pixels are x, y from the upper left corner; frames count from 0. Calls may come from several threads.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

BLOCK = 2**16


class ApiError(Exception):
    """The server refused a call, and says why; `status` is HTTP's, or 0 when there was no answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True)
class Mask:
    """A mask as COCO's run lengths, and what the model thinks of it."""

    size: tuple[int, int]
    """Height, width."""
    counts: str
    area: int
    iou: float
    object_score: float | None = None
    """A logit: above 0 the object is in the image; None for images."""

    @property
    def coco(self) -> dict[str, Any]:
        """As `pycocotools` reads it."""
        return {"size": list(self.size), "counts": self.counts}

    def runs(self) -> list[int]:
        """Lengths of runs, outside first, down the columns from left to right."""
        found: list[int] = []
        value = shift = 0
        for letter in self.counts:
            code = ord(letter) - 48
            value |= (code & 0x1F) << shift
            shift += 5
            if not code & 0x20:
                if code & 0x10:
                    value -= 1 << shift
                found.append(value + found[-2] if len(found) > 2 else value)
                value = shift = 0
        return found

    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box around the mask: x0, y0, x1, y1, the last corner exclusive. None when it is empty."""
        height = self.size[0]
        x0 = y0 = x1 = y1 = None
        at = 0
        for number, length in enumerate(self.runs()):
            if number % 2 and length:
                first, last = divmod(at, height), divmod(at + length - 1, height)
                top, bottom = (0, height - 1) if first[0] != last[0] else (first[1], last[1])
                x0 = first[0] if x0 is None else x0
                x1 = last[0] + 1
                y0 = top if y0 is None else min(y0, top)
                y1 = bottom + 1 if y1 is None else max(y1, bottom + 1)
            at += length
        return None if x0 is None or y0 is None or x1 is None or y1 is None else (x0, y0, x1, y1)


@dataclass(frozen=True)
class Frame:
    """What a run gives of one frame: object -> mask."""

    number: int
    masks: dict[int, Mask]
    done: int
    total: int


class Client:
    """A server. `token` is what `sam2core serve` printed, when it listens for other machines.

    Raises ApiError when the server refuses, or is not there.
    """

    def __init__(self, address: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 300) -> None:
        try:
            parts = urlsplit(address)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            right = False
        if not right:
            raise ValueError(f"an address is http://HOST:PORT, not {address!r}")
        self.address = address.rstrip("/")
        self.timeout = timeout
        self._parts = parts
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def about(self) -> dict[str, Any]:
        """The server's model and limits."""
        return self.json("GET", "/about")

    def open(self, file: str | os.PathLike[str] | None = None, *, sample: str = "", media: str = "") -> Session:
        """Open an image or video: a file from here, a sample, or a file of the server's media folder."""
        if file is None:
            return Session(self, self.json("POST", "/sessions", {"sample": sample} if sample else {"media": media}))
        path = Path(file)
        with path.open("rb") as data:
            headers = {"content-length": str(path.stat().st_size), "content-type": "application/octet-stream"}
            query = urlencode({"name": path.name[-200:]})
            with self.call("POST", f"/uploads?{query}", data, headers) as answer:
                return Session(self, json.load(answer))

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API with JSON, and return its answer."""
        data = None if body is None else json.dumps(body).encode()
        with self.call(method, path, data, {} if body is None else {"content-type": "application/json"}) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Call the API. The answer must be closed. Raises ApiError."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self.timeout)
        try:
            try:
                target = f"{self._parts.path.rstrip('/')}/api{path}"
                connection.request(method, target, body, {**self._headers, **(headers or {})})
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have refused before it read everything: its answer says why
            response = connection.getresponse()
            if response.status >= 400:
                text = response.read()
                try:
                    detail = json.loads(text)["detail"]
                except (ValueError, LookupError, TypeError):
                    detail = response.reason
                raise ApiError(response.status, str(detail))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiError(0, f"no answer from {self.address}: {error}") from error
        except BaseException:
            connection.close()
            raise
        return Answer(connection, response)


class Answer:
    """An answer that is being read."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def read(self, size: int | None = None) -> bytes:
        return self._response.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()
        self._connection.close()


class Session:
    """One opened image or video; a context manager that closes it."""

    def __init__(self, client: Client, state: dict[str, Any]) -> None:
        self.client = client
        self.id: str = state["id"]
        self.kind: str = state["kind"]
        self.size: tuple[int, int] = (state["height"], state["width"])
        self.frames: int = state["frames"]
        self.fps: float | None = state["fps"]
        self._path = f"/sessions/{quote(self.id, safe='')}"

    def prompt(
        self,
        object: int,
        *,
        frame: int = 0,
        points: Sequence[tuple[float, float]] | None = None,
        labels: Sequence[int] | None = None,
        box: Sequence[float] | None = None,
        mask: Mask | dict[str, Any] | None = None,
        name: str | None = None,
        color: str | None = None,
    ) -> dict[int, Mask]:
        """Say what an object is on a frame, in place of what was said of it there; a new number adds one.

        `labels` are 1 (on the object) or 0 (beside it), all 1 by default. Returns all masks of that frame.
        """
        body = {
            "object": object,
            "frame": frame,
            "points": None if points is None else [list(point) for point in points],
            "labels": None if labels is None else list(labels),
            "box": None if box is None else list(box),
            "mask": mask.coco if isinstance(mask, Mask) else mask,
            "name": name,
            "color": color,
        }
        said = {key: value for key, value in body.items() if value is not None}
        return _masks(self._json("POST", "/prompts", said)["masks"])

    def preview(self, point: tuple[float, float], *, frame: int = 0) -> Mask:
        """What a click would give; nothing is remembered."""
        return _mask(self._json("POST", "/preview", {"frame": frame, "point": list(point)}))

    def track(
        self, start: int | None = None, stop: int | None = None, *, direction: str = "forward", resume: bool = False
    ) -> Iterator[Frame]:
        """Track all objects, frame by frame as they come; `resume` goes on with a run that was stopped.

        To stop, break out of the loop, or call `cancel` from elsewhere. Raises ApiError when tracking fails on the way.
        """
        body = {"direction": direction, "start": start, "stop": stop, "resume": resume}
        headers = {"content-type": "application/json"}
        with self.client.call("POST", f"{self._path}/propagate", json.dumps(body).encode(), headers) as answer:
            name = ""
            for line in answer:
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data" and name == "frame":
                    data = json.loads(value)
                    yield Frame(data["frame"], _masks(data["masks"]), data["done"], data["total"])
                elif key == "data" and name == "error":
                    raise ApiError(422, json.loads(value)["detail"])
                elif key == "data" and name == "done":
                    return
        raise ApiError(0, "the run broke off: the server went away")

    def cancel(self) -> dict[str, Any]:
        """Stop the run that is under way, after the frame that it is at. The session's state, as `state`."""
        return self._json("POST", "/cancel")

    def undo(self) -> dict[str, Any]:
        """Take the latest prompt or removal back."""
        return self._json("POST", "/undo")

    def redo(self) -> dict[str, Any]:
        """Do again what `undo` took back last."""
        return self._json("POST", "/redo")

    def remove(self, object: int) -> None:
        """Remove an object, until `undo`; the others stay as they are."""
        self._json("DELETE", f"/objects/{object}")

    def masks(self, frame: int = 0) -> dict[int, Mask]:
        """The masks that are known on a frame."""
        return _masks(self._json("GET", f"/masks/{frame}")["masks"])

    def state(self) -> dict[str, Any]:
        """The session as it is: objects, prompts, where each object is seen, whether a run is under way."""
        return self._json("GET", "")

    def export(self, kind: str, path: str | os.PathLike[str], **options: str) -> None:
        """Write the masks to a file, which is there only once it is whole; for kinds see the server's /openapi.json."""
        path = Path(path)
        unfinished = path.with_name(path.name + ".part")
        query = urlencode({"kind": kind, **options})
        try:
            with self.client.call("GET", f"{self._path}/export?{query}") as answer, unfinished.open("wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the session; one that is gone already is closed."""
        try:
            self._json("DELETE", "")
        except ApiError as error:
            if error.status != 404:
                raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        return self.client.json(method, self._path + path, body)


def _mask(given: dict[str, Any]) -> Mask:
    segmentation = given["segmentation"]
    size = (segmentation["size"][0], segmentation["size"][1])
    return Mask(size, segmentation["counts"], given["area"], given["iou"], given["object_score"])


def _masks(given: dict[str, Any]) -> dict[int, Mask]:
    return {int(number): _mask(one) for number, one in given.items()}
