"""How the server leaves when it is asked to: runs stop, what they did is saved, all within bounds."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from sam2core_web.connections import Server
from sam2core_web.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sam2core_web.sessions import Sessions

LOG = logging.getLogger(__name__)
LAST = 2.0
"""Seconds beyond `shutdown_seconds` in which the application may end."""


class LeavingServer(Server):
    """A server that saves its sessions first when it is asked to stop; SIGTERM and Ctrl-C do the same.

    Work that cannot be interrupted is given up at last: what is on disk is written in transactions as it changes, and
    whole at any moment.
    """

    def __init__(self, app: FastAPI, limits: Limits) -> None:
        super().__init__(app, limits)
        self.app = app
        self.seconds = limits.shutdown_seconds + LAST
        self._timer: threading.Timer | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def shutdown(self, sockets: Any = None) -> None:
        self._timer = threading.Timer(self.seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        sessions: Sessions | None = getattr(self.app.state, "sessions", None)
        if sessions is not None:
            await sessions.stop_all()
        await super().shutdown(sockets)

    def _give_up(self) -> None:
        LOG.error("stopped after %g seconds in the middle of some work; what was saved before is kept", self.seconds)
        os._exit(1)
