"""The API: opening, prompting, looking, closing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as PathParameter
from PIL import Image
from starlette.requests import HTTPConnection

import sam2core
from sam2core.media.images import as_bytes
from sam2core.ops import rle
from sam2core.storage import disk_errors
from sam2core_web import media, opening
from sam2core_web import schemas as s
from sam2core_web.covers import drawn
from sam2core_web.limits import Limits
from sam2core_web.media import Refused
from sam2core_web.sessions import Session, new_id
from sam2core_web.work import Answer, Said, Work

THUMBNAIL = 480
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": s.Problem} for status in (400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429)
}
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}
ON_SESSIONS = ("state", "close", "prompt", "preview", "everything", "propagate", "cancel", "undo", "redo", "export")
OPENED: dict[int | str, dict[str, Any]] = {
    201: {"links": {name: {"operationId": name, "parameters": {"id": "$response.body#/id"}} for name in ON_SESSIONS}}
}
router = APIRouter(prefix="/api", responses=PROBLEMS)


async def find(request: HTTPConnection, id: str) -> Session:
    """The session that the address names; a saved one comes back by that."""
    sessions, store = request.app.state.sessions, request.app.state.store
    if id not in sessions and store is not None and store.has(id):
        return await opening.come_back(request.app, client(request), id)
    return sessions.get(id)


Found = Annotated[Session, Depends(find)]
FrameNumber = Annotated[int, PathParameter(ge=0, le=2**31)]
ObjectNumber = Annotated[int, PathParameter(ge=1, le=100_000)]


def client(request: HTTPConnection) -> str:
    return request.client.host if request.client else "unknown"


@router.get("/about")
async def about(request: Request) -> s.About:
    """The model, and the limits of this server."""
    engine, limits = request.app.state.engine, request.app.state.limits
    return s.About(
        version=sam2core.__version__,
        model=engine.name,
        device=str(engine.model.device),
        image_size=engine.model.image_size,
        upload_bytes=limits.upload_bytes,
        frames=limits.frames,
        objects=limits.objects,
        media=request.app.state.media is not None,
        keeps=request.app.state.store is not None,
    )


@router.get("/samples")
async def samples() -> list[s.Item]:
    """The images and videos that come with sam2core."""
    return [s.Item(**one) for one in media.listing(opening.SAMPLES, 100)]


@router.get("/media")
async def folder(request: Request) -> list[s.Item]:
    """The images and videos of the folder that the server was started with."""
    if request.app.state.media is None:
        return []
    found = await asyncio.to_thread(media.listing, request.app.state.media, request.app.state.limits.listed)
    return [s.Item(**one) for one in found]


@router.get("/thumbnail", response_class=Response, responses=JPEG)
async def thumbnail(
    request: Request, name: Annotated[str, Query(max_length=2000)], of: Literal["samples", "media"] = "samples"
) -> Response:
    """A small JPEG of a sample or of a file of the media folder; of a video, its first frame."""
    path = await asyncio.to_thread(opening.place, request.app, of, name)
    data = await asyncio.to_thread(_thumbnail, path, request.app.state.limits)
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})


@router.get("/sessions")
async def kept_sessions(request: Request) -> list[s.Kept]:
    """The sessions that can be gone on with, the one used last first; those in which nothing was done are left out."""
    state = request.app.state
    if state.store is not None:
        found = await asyncio.to_thread(state.store.entries, state.limits.listed)
        return [s.Kept(**one._asdict()) for one in found]
    now, clock = time.time(), state.sessions.clock()
    return [
        s.Kept(
            id=one.id,
            name=one.name,
            kind="image" if one.work.kind == "image" else "clip",
            model=one.model,
            frames=one.work.frames,
            objects=len(one.work.things),
            used=now - (clock - one.used),
        )
        for one in state.sessions.live()
        if one.work.things or one.of == "uploads"
    ]


@router.get("/sessions/{id}/thumbnail", response_class=Response, responses=JPEG)
async def session_thumbnail(request: Request, id: str) -> Response:
    """A small JPEG of a session's first frame, with the masks that it has there."""
    sessions, store = request.app.state.sessions, request.app.state.store
    if id in sessions:
        session = sessions.get(id)
        masks = [(one.color, one.answers[0].segmentation) for one in session.work.things.values() if 0 in one.answers]
        small = session.cover
    elif store is not None:
        small, masks = await asyncio.to_thread(store.glimpse, id)
    else:
        raise Refused("there is no such session", 404)
    return Response(await asyncio.to_thread(drawn, small, masks), media_type="image/jpeg")


@router.post("/sessions", status_code=201, responses=OPENED)
async def open_session(request: Request, body: s.Open) -> s.State:
    """Open a sample or a file of the media folder."""
    if (body.sample is None) == (body.media is None):
        raise ValueError("give one of sample and media")
    of, name = ("samples", body.sample) if body.sample is not None else ("media", body.media)
    assert name is not None
    path = await asyncio.to_thread(opening.place, request.app, of, name)
    caller = client(request)
    async with request.app.state.sessions.reserved(caller):
        return session_state(await opening.begin(request.app, caller, path, of=of, file=name, name=path.name))


@router.post(
    "/uploads",
    status_code=201,
    responses=OPENED,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(request: Request, name: Annotated[str, Query(min_length=1, max_length=200)] = "upload") -> s.State:
    """Open a file of the caller's: the request's body is its bytes. What it is goes by its content."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused("send the file's bytes as the request's body, not as a form")
    state, caller, told, id = request.app.state, client(request), media.plain(name), new_id()
    path = state.folder / id if state.store is None else state.store.media(id)
    async with state.sessions.reserved(caller):
        try:
            private = lambda file, flags: os.open(file, flags, 0o600)  # noqa: E731
            with disk_errors(path.parent), open(path, "xb", opener=private) as file:
                async for chunk in request.stream():
                    file.write(chunk)
            return session_state(
                await opening.begin(request.app, caller, path, of="uploads", file=told, name=told, id=id)
            )
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@router.get("/sessions/{id}")
async def state(session: Found) -> s.State:
    """What a session is, and what is known in it."""
    async with session.lock:
        return session_state(session)


@router.delete("/sessions/{id}", status_code=204, response_class=Response)
async def close(request: Request, id: str) -> Response:
    """Delete a session; its masks and what was uploaded for it are gone."""
    sessions, store = request.app.state.sessions, request.app.state.store
    async with sessions.moving:
        if id in sessions:
            await sessions.close(sessions.get(id))
        elif store is None or not store.has(id):
            sessions.get(id)  # says that there is none
        if store is not None:
            await asyncio.to_thread(store.remove, id)
    return Response(status_code=204)


@router.get("/sessions/{id}/frames/{frame}", response_class=Response, responses=JPEG)
async def frame(session: Found, frame: FrameNumber) -> Response:
    """A frame as JPEG, at its own size."""
    _check_frame(session, frame)
    data = await asyncio.to_thread(lambda: _jpeg(Image.fromarray(session.work.frame(frame)), 90))
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.get("/sessions/{id}/masks/{frame}")
async def masks(session: Found, frame: FrameNumber) -> s.FrameOut:
    """The masks that are known on a frame."""
    _check_frame(session, frame)
    async with session.lock:
        return frame_out(session.work, frame)


@router.post("/sessions/{id}/prompts")
async def prompt(request: Request, session: Found, body: s.PromptIn) -> s.FrameOut:
    """Say what an object is on a frame, and see the masks there. A new number adds an object, at any time."""
    return await say(request.app.state, session, body)


async def say(state: Any, session: Session, body: s.PromptIn) -> s.FrameOut:
    """Prompt an object of a session. Raises Refused and ValueError."""
    work = session.work
    limit = state.limits.objects
    said = Said(
        tuple(body.points or ()), tuple(body.labels or ()), body.box, await asyncio.to_thread(_mask, body, work)
    )
    async with changing(state, session):
        if body.object not in work.things and len(work.things) >= limit:
            raise Refused(f"a session has at most {limit} objects", 409)
        await state.engine.run(lambda: work.prompt(body.object, body.frame, said, body.name, body.color))
        return frame_out(work, body.frame)


@router.post("/sessions/{id}/preview")
async def preview(request: Request, session: Found, body: s.PreviewIn) -> s.Mask:
    """The mask that a click would give; nothing is remembered."""
    async with held(session):
        work = session.work
        return mask_out(await request.app.state.engine.run(lambda: work.preview(body.frame, body.point)))


@router.post("/sessions/{id}/everything")
async def everything(request: Request, session: Found, body: s.EverythingIn) -> s.Everything:
    """Every mask in an image, or on a video's frame. To keep one, prompt with it."""
    work = session.work
    async with held(session):
        found = await request.app.state.engine.run(lambda: work.everything(body.frame, body.points_per_side))
    return s.Everything(masks=[s.Found(**one) for one in found])


@router.post("/sessions/{id}/undo")
async def undo(request: Request, session: Found) -> s.State:
    """Take the latest prompt or removal back: its object is as it was before, tracked masks included. 64 steps."""
    async with changing(request.app.state, session):
        await request.app.state.engine.run(session.work.undo)
    return session_state(session)


@router.post("/sessions/{id}/redo")
async def redo(request: Request, session: Found) -> s.State:
    """Do again what `undo` took back last, tracked masks included, until there is another prompt or removal."""
    async with changing(request.app.state, session):
        await request.app.state.engine.run(session.work.redo)
    return session_state(session)


@router.put("/sessions/{id}/objects/{number}")
async def describe_object(request: Request, session: Found, number: ObjectNumber, body: s.ObjectIn) -> s.State:
    """Name or colour an object."""
    async with changing(request.app.state, session):
        session.work.describe(number, body.name, body.color)
    return session_state(session)


@router.delete("/sessions/{id}/objects/{number}")
async def remove_object(request: Request, session: Found, number: ObjectNumber) -> s.State:
    """Remove an object, until `undo`; the others are not touched."""
    async with changing(request.app.state, session):
        await request.app.state.engine.run(lambda: session.work.remove(number))
    return session_state(session)


class held:
    """A session's lock, for work on it. Raises Unknown when the session was closed while it was waited for."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def __aenter__(self) -> None:
        await self.session.lock.acquire()
        if self.session.closed:
            self.session.lock.release()
            raise Refused("the session was closed", 404)

    async def __aexit__(self, *_: object) -> None:
        self.session.lock.release()


@contextlib.asynccontextmanager
async def changing(state: Any, session: Session) -> AsyncIterator[None]:
    """A session's lock, for work that changes it; what has changed is on disk in the end."""
    async with held(session):
        yield
        session.saved = False
        if state.sessions.save is not None:
            await state.sessions.save(session)


def session_state(session: Session) -> s.State:
    work = session.work
    height, width = work.size
    return s.State(
        id=session.id,
        kind="image" if work.kind == "image" else "clip",
        name=session.name,
        width=width,
        height=height,
        frames=work.frames,
        fps=work.fps,
        objects=[s.ObjectOut(id=number, name=one.name, color=one.color) for number, one in work.things.items()],
        prompts=[
            s.Said(
                object=number,
                frame=frame,
                points=list(said.points),
                labels=list(said.labels),
                box=said.box,
                mask=said.mask is not None,
            )
            for number, one in work.things.items()
            for frame, said in one.said.items()
        ],
        visible={
            number: {frame: answer.area > 0 for frame, answer in sorted(one.answers.items())}
            for number, one in work.things.items()
        },
        tracking=session.tracking,
        resumable=bool(work.legs) and not session.tracking,
        undoable=work.undoable,
        redoable=work.redoable,
        saved=session.saved,
    )


def frame_out(work: Work, frame: int) -> s.FrameOut:
    known = {number: one.answers[frame] for number, one in work.things.items() if frame in one.answers}
    return s.FrameOut(frame=frame, masks={number: mask_out(answer) for number, answer in known.items()})


def mask_out(answer: Answer) -> s.Mask:
    return s.Mask(
        segmentation=s.Rle(**answer.segmentation), area=answer.area, iou=answer.iou, object_score=answer.object_score
    )


def _check_frame(session: Session, frame: int) -> None:
    if frame >= session.work.frames:
        raise Refused(f"there is no frame {frame}: frames are 0 to {session.work.frames - 1}", 404)


def _mask(body: s.PromptIn, work: Work) -> Any:
    """The mask of a prompt; its size is checked before room is made for it."""
    if body.mask is None:
        return None
    if tuple(body.mask.size) != work.size:
        raise ValueError(f"the mask is {list(body.mask.size)}, the image {list(work.size)} (height, width)")
    return rle.decode({"size": work.size, "counts": body.mask.counts})


def _thumbnail(path: Path, limits: Limits) -> bytes:
    if media.kind(path) == "image":
        picture = media.read_picture(path, limits)
    else:
        with media.open_clip(path, limits) as source:
            picture = np.asarray(source[0])
    image = Image.fromarray(as_bytes(picture))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return _jpeg(image, 82)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
