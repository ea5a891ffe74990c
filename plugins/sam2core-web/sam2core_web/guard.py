"""Who may call: a token, the right host, no foreign page; and what every answer says to browsers."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

LOCAL = {"127.0.0.1", "localhost", "::1", "testserver"}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """ASGI middleware: refuses calls without the token, from other sites' pages, and, on loopback, for other hosts.

    The last two keep a page that somebody visits from calling the server on his machine (by forged requests, or by
    a name that points to 127.0.0.1).
    """

    def __init__(self, app: Any, *, token: str | None, local: bool) -> None:
        self.app = app
        self.token = token
        self.local = local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if scope["type"] == "websocket":
            if refusal is not None or not scope["path"].startswith("/api/"):
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
            else:
                await self.app(scope, receive, send)
            return
        if refusal is not None:
            status, detail = refusal
            await JSONResponse({"detail": detail}, status)(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        await self.app(scope, receive, answer)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.local and urlsplit(f"//{host}").hostname not in LOCAL:
            return 421, "this server answers for localhost only"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "pages of other sites may not call this server"
        if self.token is not None and path.startswith("/api/"):
            said = headers.get("authorization", "").encode()
            if not secrets.compare_digest(said, f"Bearer {self.token}".encode()):
                return 401, "this server wants its token: Authorization: Bearer TOKEN"
        return None
