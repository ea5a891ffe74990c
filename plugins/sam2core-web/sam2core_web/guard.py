"""Who may call: a token, the right host, no foreign page; and what every answer says to browsers."""

from __future__ import annotations

import re
import secrets
from ipaddress import IPv6Address
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

LOCAL = {"127.0.0.1", "localhost", "::1"}
HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
"""What stays as it is after the # of an address and in a header."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}


class Guard:
    """ASGI middleware: refuses calls without the token, from other sites' pages, and, on loopback, for other hosts.

    The last two keep a page that somebody visits from calling the server on his machine (by forged requests, or by
    a name that points to 127.0.0.1). Raises ValueError for a token that nobody could send.
    """

    def __init__(self, app: Any, *, token: str | None, local: bool) -> None:
        if token is not None:
            check_token(token)
        self.app = app
        self.token = token
        self.local = local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if scope["type"] == "websocket":
            if refusal is not None or not scope["path"].startswith("/api/"):
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
            else:
                await self.app(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if refusal is not None:
            status, detail = refusal
            await JSONResponse({"detail": detail}, status)(scope, receive, answer)
        else:
            await self.app(scope, receive, answer)

    def _refusal(self, scope: Any, headers: Headers) -> tuple[int, str] | None:
        host, origin, api = headers.get("host", ""), headers.get("origin"), scope["path"].startswith("/api/")
        name = host_name(host)
        if name is None:
            return 400, "the Host header names no host"
        if self.local and name not in LOCAL:
            return 421, "this server answers for localhost only"
        if origin is not None and (not host or origin.partition("://")[2] != host):
            return 403, "pages of other sites may not call this server"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (api or not _follows_link(headers)):
            return 403, "pages of other sites may not call this server"
        if self.token is not None and api:
            said = headers.get("authorization", "").encode()
            if not secrets.compare_digest(said, f"Bearer {self.token}".encode()):
                return 401, "this server wants its token: Authorization: Bearer TOKEN"
        return None


def host_name(text: str) -> str | None:
    """The name or address in a Host header, without its port; "" where there is none, None for anything else."""
    if not text:
        return ""
    match = HOST.fullmatch(text)
    if match is None:
        return None
    if match[2]:
        return match[2].lower()
    try:
        return IPv6Address(match[1]).compressed
    except ValueError:
        return None


def check_token(token: str) -> None:
    """Raises ValueError for a token that could not be shown."""
    if not TOKEN.fullmatch(token):
        raise ValueError(f"a token has at least one of the letters a-z, A-Z, 0-9 and . _ ~ -, and no others: {token!r}")


def _follows_link(headers: Headers) -> bool:
    """Whether a browser opens a page of its own for this call, as after a click on a link, and shows nobody else it."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
