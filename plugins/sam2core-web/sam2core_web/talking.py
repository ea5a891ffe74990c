"""The WebSocket: prompts, runs and their cancelling over one connection, for tools that would rather talk than call."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import Field, TypeAdapter, ValidationError

from sam2core_web import schemas as s
from sam2core_web.media import Refused
from sam2core_web.opening import told
from sam2core_web.routes import find, say
from sam2core_web.sessions import Full, Session, Unknown
from sam2core_web.tracking import Event, begin

GONE = 1008
"""The code of a socket that is closed because there is no such session."""
router = APIRouter(prefix="/api")


class Propagate(s.PropagateIn):
    call: Literal["propagate"]


class Prompt(s.PromptIn):
    call: Literal["prompt"]


class Cancel(s.Body):
    call: Literal["cancel"]


CALLS: TypeAdapter[Propagate | Prompt | Cancel] = TypeAdapter(
    Annotated[Propagate | Prompt | Cancel, Field(discriminator="call")]
)


@router.websocket("/sessions/{id}/socket")
async def socket(websocket: WebSocket, id: str) -> None:
    """Calls come as JSON: `{"call": "prompt" | "propagate" | "cancel", ...}` with what the HTTP API takes.

    Answers are the events of `propagate` as `{"event": ..., ...}`, `{"event": "masks", ...}` after a prompt, and
    `{"event": "error", "detail": ...}`. When the socket closes, the run stops, and the session stays.
    """
    await websocket.accept()
    try:
        session = await find(websocket, id)
    except (Unknown, Refused, Full) as error:
        await websocket.send_json({"event": "error", "detail": str(error)})
        await websocket.close(GONE)
        return
    await Talk(websocket, session).go_on()


class Talk:
    """One connection about one session."""

    def __init__(self, websocket: WebSocket, session: Session) -> None:
        self.websocket, self.session = websocket, session
        self.sending = asyncio.Lock()
        self.stop: asyncio.Event | None = None
        """Ends the run that was begun here."""
        self.forwarding: set[asyncio.Task[None]] = set()

    async def go_on(self) -> None:
        """Answer until the caller goes away."""
        try:
            while True:
                message = await self.websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    await self.answer(CALLS.validate_json(message.get("text") or message.get("bytes") or ""))
                except ValidationError as error:
                    await self.send("error", {"detail": "; ".join(one["msg"] for one in error.errors()[:5])})
                except (ValueError, Unknown) as error:
                    await self.send("error", {"detail": told(self.websocket.app.state, error)})
        except WebSocketDisconnect:
            pass
        finally:
            if self.stop is not None:
                self.stop.set()
            for task in self.forwarding:
                task.cancel()

    async def answer(self, call: Propagate | Prompt | Cancel) -> None:
        state = self.websocket.app.state
        if isinstance(call, Propagate):
            self.stop, events = await begin(state, self.session, call)
            task = asyncio.create_task(self.forward(events))
            self.forwarding.add(task)
            task.add_done_callback(self.forwarding.discard)
        elif isinstance(call, Prompt):
            await self.send("masks", (await say(state, self.session, call)).model_dump())
        else:
            self.session.stop.set()

    async def forward(self, events: asyncio.Queue[Event | None]) -> None:
        while (event := await events.get()) is not None:
            await self.send(*event)

    async def send(self, name: str, data: dict[str, Any]) -> None:
        async with self.sending:
            await self.websocket.send_json({"event": name, **data})
