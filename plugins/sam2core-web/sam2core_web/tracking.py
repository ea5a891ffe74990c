"""Propagation as a stream of events, and how to stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from sam2core_web import schemas as s
from sam2core_web.media import Refused
from sam2core_web.opening import told
from sam2core_web.routes import PROBLEMS, Found, changing, frame_out, held, session_state
from sam2core_web.sessions import Session
from sam2core_web.work import ClipWork

Event = tuple[str, dict[str, Any]]


def _event(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """How one kind of event is described: each is an object of two strings, of which the second is JSON."""
    content = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {
        "type": "object",
        "title": name,
        "properties": {"event": {"const": name, "type": "string"}, "data": content},
        "required": ["event", "data"],
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


NUMBER = {"type": "integer"}
EVENTS = {
    "oneOf": [
        _event("start", _object(total=NUMBER)),
        _event("frame", {"allOf": [{"$ref": "#/components/schemas/FrameOut"}, _object(done=NUMBER, total=NUMBER)]}),
        _event("done", _object(reason={"type": "string", "enum": ["finished", "cancelled"]})),
        _event("error", {"$ref": "#/components/schemas/Problem"}),
    ]
}
"""Of the stream: the description of each event in it."""
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": EVENTS}}}}
SAVE_EVERY = 1.0
"""Seconds between writes during a run: what a server loses at most that is killed, and tracks again."""
router = APIRouter(prefix="/api", responses=PROBLEMS)


@router.post("/sessions/{id}/propagate", response_class=StreamingResponse, responses={**PROBLEMS, **STREAM})
async def propagate(request: Request, session: Found, body: s.PropagateIn) -> StreamingResponse:
    """Track all objects over the video, as server-sent events.

    `event: start` {total}; then per frame `event: frame` {frame, done, total, masks}; at the end `event: done`
    {reason: "finished" | "cancelled"} or `event: error` {detail}. When the caller goes away, the run stops; a run that
    was stopped goes on with `resume`.
    """
    stop, events = await begin(request.app.state, session, body)
    return StreamingResponse(_stream(stop, events), media_type="text/event-stream")


async def begin(state: Any, session: Session, body: s.PropagateIn) -> tuple[asyncio.Event, asyncio.Queue[Event | None]]:
    """Start a run: what stops it, and its events, None after the last. Raises Refused and ValueError."""
    work = session.work
    if not isinstance(work, ClipWork):
        raise Refused("an image has nothing to track", 409)
    if state.sessions.leaving:
        raise Refused("the server is about to stop", 503)
    async with changing(state, session):
        if session.tracking:
            raise Refused("tracking is under way; cancel it first", 409)
        total = work.go_on() if body.resume else work.begin(body.direction, body.start, body.stop)
        stop = session.stop = asyncio.Event()
        session.tracking = True
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    session.run = asyncio.create_task(_run(state, session, work, total, stop, events))
    return stop, events


@router.post("/sessions/{id}/cancel")
async def cancel(session: Found) -> s.State:
    """Stop tracking after the frame that is being worked on; what was tracked stays."""
    session.stop.set()
    async with session.lock:
        return session_state(session)


async def _run(
    state: Any, session: Session, work: ClipWork, total: int, stop: asyncio.Event, events: asyncio.Queue[Event | None]
) -> None:
    """Track frame by frame; between frames, other calls of this session and of others get their turn."""
    done = 0
    last: Event = ("error", {"detail": "tracking ended unexpectedly"})
    events.put_nowait(("start", {"total": total}))
    written = time.monotonic()
    try:
        while not stop.is_set():
            async with held(session):
                frame = await state.engine.run(work.advance)
                answer = None if frame is None else frame_out(work, frame)
                session.saved = False
                if state.sessions.save is not None and time.monotonic() - written > SAVE_EVERY:
                    await state.sessions.save(session)
                    written = time.monotonic()
            if answer is None:
                last = ("done", {"reason": "finished"})
                break
            done += 1
            events.put_nowait(("frame", {"done": done, "total": total, **answer.model_dump()}))
        else:
            last = ("done", {"reason": "cancelled"})
    except (ValueError, RuntimeError, OSError) as error:  # a damaged frame, no memory left: told to the caller
        last = ("error", {"detail": told(state, error)})
    finally:
        session.tracking = False
        with contextlib.suppress(Refused):  # it was deleted, here or by another server
            async with changing(state, session):
                pass
        events.put_nowait(last)
        events.put_nowait(None)


async def _stream(stop: asyncio.Event, events: asyncio.Queue[Event | None]) -> AsyncIterator[str]:
    try:
        while (event := await events.get()) is not None:
            name, data = event
            yield f"event: {name}\ndata: {json.dumps(data)}\n\n"
    finally:
        stop.set()  # the caller may have gone
