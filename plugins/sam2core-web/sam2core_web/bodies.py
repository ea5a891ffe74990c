"""What comes in is bounded: how much a call may send, and how slowly it may come."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from sam2core_web.limits import Limits

UPLOADS = "/api/uploads"
CLOSE = {"connection": "close"}
"""The rest of a refused body is not waited for."""
SLOWEST = 1000
"""Bytes a second."""


class Bodies:
    """ASGI middleware: ends calls whose body grows beyond the limit (413), or stays away or drips for long (408).

    A body may take `body_seconds`, and longer by what its bytes take at SLOWEST.

    All are raised where the call reads its body, so what it holds is given back as after any other error.
    """

    def __init__(self, app: Any, *, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"] == UPLOADS
        limit = self.limits.upload_bytes if upload else self.limits.body_bytes
        too_large = f"the {'file' if upload else 'body'} is too large; at most {limit:,} bytes are taken"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            await JSONResponse({"detail": too_large}, 413, CLOSE)(scope, receive, send)
            return
        count, more, began = 0, True, time.monotonic()

        async def counted() -> Any:
            nonlocal count, more
            if not more:  # what comes then is that the caller went away
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.limits.body_seconds)
            except asyncio.TimeoutError as error:
                waited = f"nothing came of the body for {self.limits.body_seconds:g} seconds"
                raise HTTPException(408, waited, CLOSE) from error
            more = message.get("more_body", False)
            count += len(message.get("body", b""))
            if count > limit:
                raise HTTPException(413, too_large, CLOSE)
            if more and time.monotonic() - began > self.limits.body_seconds + count / SLOWEST:
                raise HTTPException(408, f"the body comes too slowly; at least {SLOWEST:,} bytes a second", CLOSE)
            return message

        await self.app(scope, counted, send)
