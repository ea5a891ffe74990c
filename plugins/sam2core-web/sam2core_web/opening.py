"""How sessions begin: with a file that is looked at first, or where a saved one ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

import registry
from sam2core_web import media
from sam2core_web.engine import Engine
from sam2core_web.limits import Limits
from sam2core_web.media import Refused
from sam2core_web.saved import Saved, restore
from sam2core_web.sessions import Session
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
    for folder in (state.folder, state.media, SAMPLES, None if state.saved is None else state.saved.folder):
        if folder is not None:
            for name in {str(folder), str(folder.resolve())}:
                text = text.replace(f"{name}/", "")
    return text


async def begin(app: FastAPI, client: str, path: Path, *, of: str, file: str, name: str) -> Session:
    """Look at a file, and make a session of it in the reserved place. Of an upload, the file is the session's then."""
    engine = app.state.engine
    mine = path if of == "uploads" else None
    prepare = await asyncio.to_thread(_read, path, app.state.limits, engine, mine, None)
    work = await engine.run(prepare)
    if work.kind == "image" and mine is not None and app.state.saved is None:
        mine.unlink()  # it is decoded, and will not be wanted again
    return app.state.sessions.add(client, name, work, of=of, file=file)


async def come_back(app: FastAPI, client: str, id: str) -> Session:
    """A saved session, as it was: objects, masks, and what the model remembers. Raises Refused when it cannot be."""
    sessions, saved = app.state.sessions, app.state.saved
    async with sessions.moving:
        if id in sessions:
            return sessions.get(id)
        if not saved.has(id):
            raise Refused("there is no such session", 404)
        with sessions.reserved(client):
            work, state = await _restored(app.state.engine, saved, id, app)
            return sessions.add(client, state["name"], work, of=state["of"], file=state["file"], id=id)


async def _restored(engine: Engine, saved: Saved, id: str, app: FastAPI) -> tuple[Work, dict[str, Any]]:
    try:
        state = await asyncio.to_thread(saved.read, id)
        path = saved.source(id) if state["of"] == "uploads" else place(app, state["of"], state["file"])
        tensors = None if state["tensors"] is None else saved.tensors(id, state)
        work = await engine.run(await asyncio.to_thread(_read, path, app.state.limits, engine, None, tensors))
        restore(work, state)
    except (ValueError, LookupError, OSError) as error:
        raise Refused(f"the session was saved, but cannot come back: {told(app.state, error)}", 409) from error
    return work, state


def _read(path: Path, limits: Limits, engine: Engine, mine: Path | None, tensors: Path | None) -> Callable[[], Work]:
    """Decode what has to be decoded; the rest is for the model's thread."""
    if media.kind(path) == "image":
        picture = media.read_picture(path, limits)
        return lambda: ImageWork(engine, picture, mine)
    source = media.open_clip(path, limits)

    def work() -> Work:
        try:
            return ClipWork(engine, source, mine, saved=tensors)
        except BaseException:
            source.close()
            raise

    return work
