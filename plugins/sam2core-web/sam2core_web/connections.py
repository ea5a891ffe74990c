"""Connections are bounded: how many there are, how long one may say or take nothing, and how often that is told."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from sam2core_web.limits import Limits

LOG = logging.getLogger(__name__)
AT_ONCE = 16
"""Connections that are accepted before the first of them is counted; each takes a file descriptor."""
QUEUE = 1024
"""Connections that the system holds until they are accepted."""
REFUSAL = JSONResponse(
    {"detail": "the server has as many connections as it can hold; try again later"},
    503,
    {"retry-after": "5", "connection": "close"},
)


class Server(uvicorn.Server):
    """Serves an application on sockets that listen, within its limits, until it is asked to stop."""

    def __init__(self, app: Any, limits: Limits) -> None:
        config = uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(BoundedProtocol, limits)),
            lifespan="on",
            log_level="warning",
            server_header=False,
            ws_max_size=limits.body_bytes,
            backlog=AT_ONCE,
            timeout_graceful_shutdown=limits.shutdown_seconds,
        )
        super().__init__(config)
        for name in ("uvicorn.error", "asyncio", __name__):
            logging.getLogger(name).addFilter(Seldom())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(QUEUE)  # asyncio makes the queue as short as what it accepts at once


class BoundedProtocol(H11Protocol):
    """One connection. Callers that keep it open and send no whole request, or do not take their answer, lose it.

    Where there is no room for another one, the one goes that has waited longest for its caller's next request, of the
    address with the most of them; so whoever asks promptly is answered, however many others dawdle. When all are
    answering, the new one is refused (503).
    """

    def __init__(self, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.limits = limits
        self.since = 0.0
        """When it was opened, or its latest answer was complete."""
        self._ends: dict[str, asyncio.TimerHandle] = {}
        """What it is waited for -> what closes it then."""

    @property
    def waits(self) -> bool:
        """Whether no request is under way, and no WebSocket has taken the connection over."""
        return (self.cycle is None or self.cycle.response_complete) and self.transport.get_protocol() is self

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.since = time.monotonic()
        self._end_after(self.limits.header_seconds, "sent no whole request")
        mine = lambda one: _address(one) == _address(self)  # noqa: E731
        if not (self._room(self.limits.connections_per_client, mine) and self._room(self.limits.connections)):
            LOG.warning("a connection from %s was refused: all that there may be are answering", _address(self))
            self.app, self.ws_protocol_class = REFUSAL, None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.waits:
            self._go_on("sent no whole request")
        else:  # the first bytes of another request, or what is left of one that was refused
            self._end_after(self.limits.header_seconds, "sent no whole request")

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_after(self.limits.answer_seconds, "took nothing of its answer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on("took nothing of its answer")

    def connection_lost(self, exc: Exception | None) -> None:
        for fault in list(self._ends):
            self._go_on(fault)
        super().connection_lost(exc)

    def _room(self, limit: int, counted: Callable[[Any], bool] = lambda one: True) -> bool:
        """Whether there is room for this connection, if need be after another one was closed."""
        if len(self.connections) <= limit:
            return True
        open_ = [one for one in self.connections if not one.transport.is_closing() and counted(one)]
        if len(open_) <= limit:
            return True
        crowd = Counter(map(_address, open_))
        waiting = [one for one in open_ if isinstance(one, BoundedProtocol) and one.waits and one is not self]
        if not waiting:
            return False
        longest = max(waiting, key=lambda one: (crowd[_address(one)], -one.since))
        LOG.warning("a connection from %s was closed to make room: it sent no request", _address(longest))
        longest.transport.abort()
        return True

    def _end_after(self, seconds: float, fault: str) -> None:
        """Close the connection when `_go_on` does not come first; bytes that drip do not put it off."""

        def end() -> None:
            LOG.warning("a connection from %s was closed: it %s for %g seconds", _address(self), fault, seconds)
            self.transport.abort()

        if fault not in self._ends:
            self._ends[fault] = self.loop.call_later(seconds, end)

    def _go_on(self, fault: str) -> None:
        if fault in self._ends:
            self._ends.pop(fault).cancel()


def _address(connection: Any) -> str | None:
    """The address of a connection's caller, also of a WebSocket's."""
    return connection.client[0] if connection.client else None


class Seldom(logging.Filter):
    """Lets a message of one kind through a few times a minute, and tells how many more there were."""

    TIMES, SECONDS, KINDS = 3, 60.0, 100

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self._seen: dict[str, tuple[float, int]] = {}
        """Kind -> when its minute began, and how many came since."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = str(record.msg).partition("\n")[0], self.clock()
        if len(self._seen) > self.KINDS:
            self._seen.clear()
        began, count = self._seen.get(kind, (now, 0))
        more = 0
        if now - began >= self.SECONDS:
            more, began, count = max(0, count - self.TIMES), now, 0
        self._seen[kind] = began, count + 1
        if more:
            record.msg, record.args = f"{record.getMessage()} (and {more:,} more like it)", ()
        return count < self.TIMES


class CutShort:
    """ASGI middleware: a call that is cancelled because the server stops is answered by that (503)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started = False

        async def noted(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not started:
                answer = JSONResponse({"detail": "the server is stopping"}, 503, {"connection": "close"})
                await answer(scope, receive, send)
