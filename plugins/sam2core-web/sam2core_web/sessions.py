"""The sessions of one server: a lock each, bounded per client, put to rest or closed when nobody uses them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sam2core_web.limits import Limits
from sam2core_web.work import Work


class Unknown(LookupError):
    """There is no such session: it was deleted, or dropped because nobody used it."""


class Full(Exception):
    """There is no room for another session."""


@dataclass(eq=False)
class Session:
    """One image or video of one client."""

    id: str
    client: str
    name: str
    work: Work
    of: str = "uploads"
    """Where its file is from: samples, media or uploads."""
    file: str = ""
    """What it is called there."""
    model: str = ""
    """The name of the model that works for it."""
    cover: bytes = b""
    """A small JPEG of its first frame."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the model works for it, and while its state is read."""
    used: float = 0.0
    tracking: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to end the run that is under way; every run has its own."""
    run: asyncio.Task[None] | None = None
    closed: bool = False
    saved: bool = False
    """Whether all of it is on disk."""
    written: Any = None
    """What the store knows of that."""


class Sessions:
    """The sessions that are in memory. Lives in the event loop; a session's work is closed under its lock."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        save: Callable[[Session], Awaitable[None]] | None = None,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.save = save
        """Called under a session's lock when it has changed; sets `saved` when that worked. None: none is kept."""
        self.moving = asyncio.Lock()
        """Held while sessions go to disk and come back, so that none is in two places."""
        self.leaving = False
        """Whether the server is about to stop: no run begins then."""
        self.closed = 0
        """How many were closed so far."""
        self._all: dict[str, Session] = {}
        self._opening: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, id: str) -> bool:
        return id in self._all

    def live(self) -> list[Session]:
        """Those in memory, the one used last first."""
        return sorted(self._all.values(), key=lambda session: -session.used)

    @contextlib.asynccontextmanager
    async def reserved(self, client: str) -> AsyncIterator[None]:
        """A place for a session that is being opened, taken before anything is done for it. Raises Full.

        Where there is none left, the session that was not used for longest is put to rest, if nothing is lost by that.
        """
        if self._mine(client) >= self.limits.sessions_per_client:
            await self._make_room([session for session in self.live() if session.client == client])
        if self._total() >= self.limits.sessions:
            await self._make_room(self.live())
        if (mine := self._mine(client)) >= self.limits.sessions_per_client:
            raise Full(f"you have {mine} sessions open, which is the limit; delete one first")
        if self._total() >= self.limits.sessions:
            raise Full("the server has as many sessions as it can hold; try again later")
        self._opening[client] = self._opening.get(client, 0) + 1
        try:
            yield
        finally:
            self._opening[client] -= 1
            if not self._opening[client]:
                del self._opening[client]

    def _mine(self, client: str) -> int:
        return sum(session.client == client for session in self._all.values()) + self._opening.get(client, 0)

    def _total(self) -> int:
        return len(self._all) + sum(self._opening.values())

    async def _make_room(self, candidates: list[Session]) -> None:
        async with self.moving:
            for session in reversed(candidates):
                if session.lock.locked() or self.save is None and session.work.things:
                    continue
                if await self._rest(session):
                    return

    def add(
        self, client: str, name: str, work: Work, *, of: str, file: str, id: str | None = None, **more: Any
    ) -> Session:
        """A new session in the reserved place, which the end of `reserved` gives back; `more` are its other fields."""
        session = Session(id or new_id(), client, name, work, of, file, used=self.clock(), **more)
        self._all[session.id] = session
        return session

    def get(self, id: str) -> Session:
        """A session, which is in use by that. Raises Unknown."""
        session = self._all.get(id)
        if session is None:
            raise Unknown("there is no such session; it was deleted, or dropped after nobody used it")
        session.used = self.clock()
        return session

    async def close(self, session: Session) -> None:
        """Close a session for good, after what it is doing."""
        session.closed = True
        session.stop.set()
        async with session.lock:
            self.forget(session)

    def forget(self, session: Session) -> None:
        """Close a session whose lock is held; what is on disk of it stays there."""
        session.closed = True
        session.stop.set()
        if self._all.pop(session.id, None) is not None:
            session.work.close()
            self.closed += 1

    async def _rest(self, session: Session) -> bool:
        """Close a session that can come back from disk, or that is not kept anyway. Whether that could be done."""
        async with session.lock:
            if session.tracking or session.closed:
                return False
            if self.save is not None and not session.saved:
                await self.save(session)
                if not session.saved:  # as on a full disk: it stays in memory
                    return False
            self.forget(session)
            return True

    async def drop_idle(self) -> int:
        """Put the sessions to rest that nobody used for long. How many."""
        limit = self.clock() - self.limits.idle_seconds
        async with self.moving:
            return sum([await self._rest(session) for session in self.live() if session.used < limit])

    async def stop_all(self) -> None:
        """Stop all runs after the frame at hand, and save what is not; no run begins after that."""
        self.leaving = True
        for session in self.live():
            session.stop.set()
        for session in self.live():
            if session.run is not None:
                await asyncio.wait([session.run])
            async with session.lock:
                if self.save is not None and not session.saved and not session.closed:
                    await self.save(session)

    async def close_all(self) -> None:
        await self.stop_all()
        for session in self.live():
            await self.close(session)


def new_id() -> str:
    """What names a session; nobody can guess it."""
    return secrets.token_urlsafe(16)
