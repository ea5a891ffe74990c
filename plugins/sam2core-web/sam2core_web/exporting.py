"""Exports as downloads: one at a time of a session, and a few being written at once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from sam2core.storage import disk_errors
from sam2core_web import export as exports
from sam2core_web import schemas as s
from sam2core_web.media import Refused
from sam2core_web.routes import PROBLEMS, Found

FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {type: {} for type in exports.TYPES.values()}},
    503: {"model": s.Problem},
}
router = APIRouter(prefix="/api", responses=PROBLEMS)


class Exports:
    """Which sessions have an export under way, and how many exports are being written."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._sessions: set[str] = set()
        self._written = 0

    @contextlib.contextmanager
    def turn(self, id: str) -> Iterator[None]:
        """A session's turn, which lasts until its file was sent. Raises Refused (429)."""
        if id in self._sessions:
            raise Refused("an export of this session is under way; wait until it was sent", 429)
        self._sessions.add(id)
        try:
            yield
        finally:
            self._sessions.discard(id)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One of the places for exports that are being written. Raises Refused (503)."""
        if self._written >= self.most:
            raise Refused(f"{self._written} exports are being written, as many as may be at once; try again later", 503)
        self._written += 1
        try:
            yield
        finally:
            self._written -= 1


class Sent(FileResponse):
    """A file that is sent. `last` is called before its last bytes, after which a caller may ask for the next file at
    once, and `done` in the end, however that comes.
    """

    def __init__(self, path: Path, *, last: Callable[[], None], done: Callable[[], None], **options: Any) -> None:
        super().__init__(path, **options)
        self.last, self.done = last, done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.last()
            await send(message)

        try:
            await super().__call__(scope, receive, watched)
        finally:
            self.done()


@router.get("/sessions/{id}/export", response_class=FileResponse, responses={**PROBLEMS, **FILES})
async def export(
    request: Request,
    session: Found,
    kind: Literal["palette", "coco", "overlay", "transparent", "cutouts"],
    effect: Literal["highlight", "contour", "dim", "blur", "remove"] = "highlight",
) -> Any:
    """The masks as a file: `palette` and `cutouts` are zips of PNGs, `coco` JSON, `overlay` an mp4 (a video) or PNG
    that shows them by an `effect`, `transparent` a WebM (a video) or PNG of all objects without a background.

    A session has one export at a time (429), the server a few that are being written (503); `Retry-After` says when to
    ask again.
    """
    state = request.app.state
    turn, done = contextlib.ExitStack(), contextlib.ExitStack()
    turn.enter_context(state.exports.turn(session.id))
    done.callback(turn.close)  # a stack is left once, however often it is closed
    try:
        async with session.lock:
            things = {number: replace(one, answers=dict(one.answers)) for number, one in session.work.things.items()}
        folder = Path(tempfile.mkdtemp(dir=state.folder))
        done.callback(shutil.rmtree, folder, ignore_errors=True)
        with state.exports.writing(), disk_errors(state.folder):
            path = await asyncio.to_thread(
                exports.write, kind, session.work, things, session.name, folder, effect=effect
            )
    except BaseException:
        done.close()
        raise
    return Sent(path, last=turn.close, done=done.close, media_type=exports.TYPES[path.suffix], filename=path.name)
