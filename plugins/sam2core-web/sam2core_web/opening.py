"""How sessions begin: with a file that is looked at first, or where a kept one was left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

import registry
from sam2core_web import media
from sam2core_web.covers import cover
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits
from sam2core_web.media import Refused
from sam2core_web.sessions import Session
from sam2core_web.store import Kept, Store, StoreError, remembered, restore
from sam2core_web.work import ClipWork, ImageWork, Work

SAMPLES = Path(registry.__file__).parent / "samples"


def place(app: FastAPI, of: str, name: str) -> Path:
    """Where a sample, or a file of the media folder, lies. Raises Refused (404)."""
    folder = SAMPLES if of == "samples" else app.state.media
    if folder is None:
        raise Refused("this server offers no media folder", 404)
    return media.inside(folder, name)


def told(state: Any, error: Exception) -> str:
    """What went wrong, without where files lie on this machine. `state` is the application's."""
    text = str(error)
    for folder in (state.folder, state.media, SAMPLES, None if state.store is None else state.store.folder):
        if folder is not None:
            for name in {str(folder), str(folder.resolve())}:
                text = text.replace(f"{name}/", "")
    return text


async def begin(
    app: FastAPI, client: str, path: Path, *, of: str, file: str, name: str, id: str | None = None
) -> Session:
    """Look at a file, and make a session of it in the reserved place. Of an upload, the file is the session's then."""
    engine, sessions = app.state.engine, app.state.sessions
    mine = path if of == "uploads" and app.state.store is None else None  # the store keeps its own
    prepare = await asyncio.to_thread(_read, path, app.state.limits, engine, mine, None)
    work = await engine.run(prepare)
    if work.kind == "image" and mine is not None:
        mine.unlink()  # it is decoded, and will not be wanted again
    small = await asyncio.to_thread(lambda: cover(work.frame(0)))
    session = sessions.add(client, name, work, of=of, file=file, id=id, model=engine.name, cover=small)
    if sessions.save is not None:
        async with session.lock:
            await sessions.save(session)
    return session


async def come_back(app: FastAPI, client: str, id: str) -> Session:
    """A kept session, as it was: objects, masks, and what the model remembers. Raises Refused when it cannot be."""
    sessions = app.state.sessions
    async with sessions.reserved(client), sessions.moving:
        if id in sessions:
            return sessions.get(id)
        if not app.state.store.has(id):
            raise Refused("there is no such session", 404)
        try:
            kept, work = await _restored(app, id)
        except (ValueError, LookupError, OSError) as error:
            raise Refused(f"the session is kept, but cannot come back: {told(app.state, error)}", 409) from error
        more = {"cover": kept.cover, "model": app.state.engine.name, "written": kept.written, "saved": True}
        return sessions.add(client, kept.name, work, of=kept.origin, file=kept.state.file, id=id, **more)


async def _restored(app: FastAPI, id: str) -> tuple[Kept, Work]:
    engine: Engine = app.state.engine
    store: Store = app.state.store
    kept = await asyncio.to_thread(store.read, id, engine.model.device)
    if kept.origin == "uploads":
        path = store.media(id)
    elif kept.origin in ("samples", "media"):
        path = place(app, kept.origin, kept.state.file)
    else:
        raise StoreError(f"session {id} in {store.file} is damaged: its file is from {kept.origin!r}")
    work = await engine.run(await asyncio.to_thread(_read, path, app.state.limits, engine, None, kept))
    try:
        if work.kind != kept.kind:
            raise ValueError(f"its file was of kind {kept.kind!r}, and is {work.kind!r} now")
        restore(work, kept)
    except BaseException:
        await engine.run(work.close)
        raise
    return kept, work


def _read(path: Path, limits: Limits, engine: Engine, mine: Path | None, kept: Kept | None) -> Callable[[], Work]:
    """Decode what has to be decoded; the rest is for the model's thread."""
    if media.kind(path) == "image":
        picture = media.read_picture(path, limits)
        return lambda: ImageWork(engine, picture, mine)
    source = media.open_clip(path, limits)

    def work() -> Work:
        try:
            return ClipWork(engine, source, mine, session=None if kept is None else remembered(engine, kept, source))
        except BaseException:
            source.close()
            raise

    return work
