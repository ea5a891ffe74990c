"""Bytes that no proper client sends: whatever comes, no answer is a 5xx, and the log holds no traceback."""

# ruff: noqa: E501
from __future__ import annotations

import json
import socket
from collections.abc import Callable
from itertools import product
from typing import Any

import httpx
import pytest

TARGETS = (
    "/", "//", "/%00", "/%ff", "/..%2f..%2fetc%2fpasswd", "/main.js", "/healthz", "/openapi.json", "*", "?", "//[::1/api",
    "http://[::1/", "http://evil.example/api/about", "/api/", "/api/about?%ff=%00", "/api/samples", "/api/%2e%2e/",
    "/api/thumbnail?name=%00", "/api/thumbnail?name=%ff", "/api/thumbnail?of=media&name=x", "/api/thumbnail?name=cat.jpg",
    "/api/sessions", "/api/sessions/%00", "/api/sessions/%ff%fe/export?kind=coco", "/api/sessions/ID", "/api/uploads",
    "/api/sessions/ID/frames/99999999999999999999", "/api/sessions/ID/frames/-1", "/api/sessions/ID/frames/0",
    "/api/sessions/ID/masks/1e9", "/api/sessions/ID/export?kind=coco&kind=x", "/api/sessions/ID/export?kind=palette",
    "/api/sessions/ID/objects/0", "/api/sessions/ID/socket",
)  # fmt: skip
HEADS = (
    b"", b"range: bytes=0-0,1-2,5-1\r\n", b"range: bytes=999999999999999999999999-\r\n", b"range: bytes=-0\r\n",
    b"range: items=1\r\n", b"if-modified-since: yesterday\r\n", b"if-none-match: \xff\r\n", b"if-range: [\r\n",
    b"authorization: \xff\xfe\r\n", b"authorization: Bearer\r\n", b"cookie: =;;=\xff\r\n", b"accept: */*;q=nan\r\n",
    b"x-forwarded-for: [::1, \xff\r\nx-forwarded-proto: gopher\r\n", b"x-forwarded-host: [\r\nforwarded: for=[\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n", b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x\r\nsec-websocket-version: 99\r\n",
    b"origin: http://[::1\r\n", b"origin: \xff\r\n", b"referer: \xff\r\n", b"expect: 100-continue\r\n",
    b"sec-fetch-site: \xff\r\n", b"te: trailers\r\n", b"x" * 5000 + b": y\r\n", b"host: second\r\n",
)  # fmt: skip
BODIES = (
    b"", b"{", b"[" * 20_000, b"\xff\xfe", b"null", b"[]", b'{"sample": "cat.jpg\\u0000"}', b'{"sample": "\\ud800"}',
    b'{"object": 1e400, "points": [[NaN, Infinity]]}', b'{"object": 1, "points": [[1e999, -1e999]]}',
    b'{"object": 1, "box": [0, 0, 0, 0]}', b'{"object": 1, "box": [9, 9, -9, -9]}', b'{"object": ' + b"9" * 5000 + b"}",
    b'{"object": 1, "points": [[5, 5]], "name": "\\ud800", "color": "#gggggg"}',
    b'{"object": 1, "mask": {"size": [300, 451], "counts": "\\u0000\xc3\xa9~~~"}}',
    b'{"object": 1, "mask": {"size": [-1, 99999999999], "counts": ""}}', b'{"frame": -1}', b'{"points_per_side": 10000000}',
    b'{"direction": "both", "start": 0, "stop": 0}', b'{"media": "../../etc/passwd"}', b'{"point": [1e6, -1e6]}',
)  # fmt: skip
POSTS = ("/api/sessions", "/api/uploads?name=%00%ff", "/api/sessions/ID/prompts", "/api/sessions/ID/preview",
         "/api/sessions/ID/everything", "/api/sessions/ID/propagate", "/api/sessions/ID/undo", "/main.js")  # fmt: skip
RAW = (
    b"\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\nx: \0\r\n\r\n", b"GET / HTTP/1.1\r\n host: localhost\r\n\r\n",
    b"POST /api/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n{}",
    b"POST /api/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    b"POST /api/sessions HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 4000 + b"\r\n\r\n{}",
    b"POST /api/sessions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /api/sessions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    b"POST /api/sessions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n{}",
    b"FETCH /api/about HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 9000,
)  # fmt: skip
QUIET = b"connection: close\r\ncontent-type: application/json\r\n"


def status(place: httpx.URL, request: bytes) -> int:
    """The status that one request gets; 0 where the connection just ends."""
    with socket.create_connection((place.host, place.port), timeout=20) as caller:
        try:
            caller.sendall(request)
            caller.shutdown(socket.SHUT_WR)
            answer = caller.recv(64)
        except ConnectionError:
            return 0
        return int(answer.split()[1]) if answer else 0


def test_nothing_that_comes_is_an_error_of_ours(live: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    server = live("test_tiny", limits={"objects": 4, "sessions": 8, "sessions_per_client": 8})
    place = httpx.URL(server.address)
    id = httpx.post(f"{place}/api/sessions", json={"sample": "cat.jpg"}).json()["id"]
    said = httpx.post(f"{place}/api/sessions/{id}/prompts", json={"object": 1, "points": [[100, 100]]})
    assert said.status_code == 200
    requests = list(RAW)
    for number, (target, head) in enumerate(product(TARGETS, HEADS)):
        method = ("GET", "HEAD", "OPTIONS", "PUT", "TRACE")[number % 5 if number % 3 == 0 else 0]
        start = f"{method} {target.replace('ID', id)} HTTP/1.1\r\nhost: localhost\r\n".encode()
        requests.append(start + (b"" if b"connection" in head else QUIET) + head + b"\r\n")
    for target, body in product(POSTS, BODIES):
        start = f"POST {target.replace('ID', id)} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        requests.append(start.encode() + QUIET + b"\r\n" + body)
    seen = [(status(place, request), request[:200]) for request in requests]
    assert [one for one in seen if one[0] >= 500] == []
    assert {200, 400, 403, 404, 405, 422} <= {code for code, _ in seen}
    assert "Traceback" not in capfd.readouterr().err
    assert httpx.get(f"{place}/api/sessions/{id}").status_code == 200


def test_nothing_that_comes_over_a_socket_is_an_error_of_ours(client: Any) -> None:
    id = client.post("/api/sessions", json={"sample": "cat.jpg"}).json()["id"]
    with client.websocket_connect(f"/api/sessions/{id}/socket") as talk:
        for body in BODIES:
            talk.send_bytes(body)
            assert talk.receive_json()["event"] == "error", body
        for call in ("prompt", "propagate", "cancel", "x", None, [], {}):
            talk.send_text(json.dumps({"call": call, "object": -1, "frame": 10**30}))
            assert talk.receive_json()["event"] == "error", call
        talk.send_json({"call": "prompt", "object": 1, "points": [[100, 100]]})
        assert talk.receive_json()["event"] == "masks"
