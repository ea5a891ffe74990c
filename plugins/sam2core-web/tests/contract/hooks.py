"""What schemathesis makes up names sessions that are open, for the most part: so calls reach the work behind them."""

from __future__ import annotations

import json
import os
import urllib.request
import zlib
from typing import Any

import schemathesis
from sam2core_web import schemas as s

SERVER = os.environ["SAM2CORE_WEB_SERVER"]
SAMPLES = ("cat.jpg", "chair.mp4", "coffee.jpg")


def opened(sample: str) -> str:
    body = json.dumps({"sample": sample}).encode()
    request = urllib.request.Request(f"{SERVER}/api/sessions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["id"]


def prompted(id: str) -> str:
    body = json.dumps({"object": 1, "points": [[100, 100]]}).encode()
    address = f"{SERVER}/api/sessions/{id}/prompts"
    urllib.request.urlopen(urllib.request.Request(address, body, {"content-type": "application/json"})).close()
    return id


HOSTILE = (
    {"Host": "[::1"}, {"Host": "[:::::]"}, {"Host": "evil.example"}, {"Host": "testserver"}, {"Origin": "http://[::1"},
    {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Range": "bytes=9-,-1"},
    {"Authorization": "Bearer \xff"}, {"X-Forwarded-For": "[::1, \xff", "X-Forwarded-Proto": "gopher"},
    {"If-Modified-Since": "yesterday", "If-None-Match": "["}, {"Upgrade": "h2c", "Connection": "upgrade"},
    {"Accept": "x/y;q=nan", "Accept-Encoding": "\xff"}, {"Cookie": "=;;="},
)  # fmt: skip
TOLD: dict[int, int] = {}
"""How often headers were made up for an operation."""
IDS = [prompted(opened(sample)) for sample in SAMPLES]


def choice(value: Any) -> int:
    """A number that is the same for the same value."""
    return zlib.crc32(repr(value).encode())


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """An open session's id in place of most made-up ones, and small numbers of objects and frames."""
    if path_parameters and isinstance(path_parameters.get("id"), str) and context.operation.method != "delete":
        chosen = choice(path_parameters)
        if chosen % 10:
            path_parameters["id"] = IDS[chosen % len(IDS)]
            for name, first, last in (("number", 1, 100_000), ("frame", 0, 2**31)):
                value = path_parameters.get(name)
                if chosen % 7 and isinstance(value, int) and first <= value <= last:  # what is wrong stays so
                    path_parameters[name] = first + value % 3
    return path_parameters


@schemathesis.hook
def map_headers(context: Any, headers: Any) -> Any:
    """Now and then what no proper client says of itself and of where it comes from."""
    chosen = choice((context.operation.label, dict(headers or {})))
    TOLD[chosen] = TOLD.get(chosen, 0) + 1
    return {**(headers or {}), **HOSTILE[TOLD[chosen] // 4 % len(HOSTILE)]} if TOLD[chosen] % 4 == 0 else headers


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Most of what is allowed by itself makes sense together, too; what is wrong stays so."""
    model = {"open_session": s.Open, "prompt": s.PromptIn, "propagate": s.PropagateIn}.get(
        context.operation.definition.raw["operationId"]
    )
    try:
        given = model.model_validate(body) if model is not None and choice(body) % 5 else None
    except ValueError:
        given = None
    if isinstance(given, s.Open):
        return {"sample": SAMPLES[choice(body) % len(SAMPLES)]}
    if isinstance(given, s.PromptIn):
        body = {**body, "object": 1 + given.object % 3, "frame": given.frame % 3, "mask": None}
        if given.points:
            body["labels"] = [choice(point) % 2 for point in given.points]
    if isinstance(given, s.PropagateIn) and not given.resume:
        body = {**body, "start": (given.start or 0) % 3, "stop": None if given.direction == "both" else 4}
    return body
