"""The sessions of one server: a lock each, bounded per client, closed when nobody uses them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from sam2core_web.limits import Limits
from sam2core_web.work import Work


class Unknown(LookupError):
    """There is no such session: it was closed, or dropped because nobody used it."""


class Full(Exception):
    """There is no room for another session."""


@dataclass(eq=False)
class Session:
    """One picture or clip of one client."""

    id: str
    client: str
    name: str
    work: Work
    of: str = "uploads"
    """Where its file is from: samples, media or uploads."""
    file: str = ""
    """What it is called there."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the model works for it, and while its state is read."""
    used: float = 0.0
    tracking: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to end the run that is under way; every run has its own."""
    run: asyncio.Task[None] | None = None
    closed: bool = False


class Sessions:
    """All sessions. Lives in the event loop; a session's work is closed under its lock."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        save: Callable[[Session], Awaitable[None]] | None = None,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.save = save
        """What is done with sessions before they are dropped; those that are closed are not saved."""
        self.moving = asyncio.Lock()
        """Held while sessions go to disk and come back, so that none is in two places."""
        self.closed = 0
        """How many were closed so far."""
        self._all: dict[str, Session] = {}
        self._opening: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, id: str) -> bool:
        return id in self._all

    @contextlib.contextmanager
    def reserved(self, client: str) -> Iterator[None]:
        """A place for a session that is being opened, taken before anything is done for it. Raises Full."""
        mine = sum(session.client == client for session in self._all.values()) + self._opening.get(client, 0)
        if mine >= self.limits.sessions_per_client:
            raise Full(f"you have {mine} sessions open, which is the limit; close one first")
        if len(self._all) + sum(self._opening.values()) >= self.limits.sessions:
            raise Full("the server has as many sessions as it can hold; try again later")
        self._opening[client] = self._opening.get(client, 0) + 1
        try:
            yield
        finally:
            self._opening[client] -= 1
            if not self._opening[client]:
                del self._opening[client]

    def add(self, client: str, name: str, work: Work, *, of: str, file: str, id: str | None = None) -> Session:
        """A new session in the reserved place, which the end of `reserved` gives back."""
        session = Session(id or secrets.token_urlsafe(16), client, name, work, of, file, used=self.clock())
        self._all[session.id] = session
        return session

    def get(self, id: str) -> Session:
        """A session, which is in use by that. Raises Unknown."""
        session = self._all.get(id)
        if session is None:
            raise Unknown("there is no such session; it was closed, or dropped after nobody used it")
        session.used = self.clock()
        return session

    async def close(self, session: Session, *, save: bool = False) -> None:
        """Close a session, after what it is doing; with `save`, it can come back."""
        session.closed = True
        session.stop.set()
        if self._all.pop(session.id, None) is None:
            return
        async with session.lock:
            try:
                if save and self.save is not None:
                    await self.save(session)
            finally:
                session.work.close()
        self.closed += 1

    async def drop_idle(self) -> int:
        """Close the sessions that nobody used for long. How many."""
        limit = self.clock() - self.limits.idle_seconds
        idle = [session for session in self._all.values() if session.used < limit and not session.tracking]
        async with self.moving:
            for session in idle:
                await self.close(session, save=True)
        return len(idle)

    async def close_all(self) -> None:
        for session in list(self._all.values()):
            await self.close(session, save=True)
