"""The application: which address does what. `create_app` puts the parts together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect
from starlette.routing import Route

import sam2core
from sam2core.storage import DiskError
from sam2core_web import older, opening
from sam2core_web.bodies import Bodies
from sam2core_web.connections import CutShort
from sam2core_web.engine import Engine
from sam2core_web.exporting import Exports
from sam2core_web.exporting import router as exporting_router
from sam2core_web.guard import Guard
from sam2core_web.limits import Limits
from sam2core_web.media import Refused
from sam2core_web.memory import give_back_freed_memory
from sam2core_web.opening import told
from sam2core_web.routes import router
from sam2core_web.scratch import scratch
from sam2core_web.sessions import Full, Session, Sessions, Unknown
from sam2core_web.store import Overtaken, Store, StoreError
from sam2core_web.talking import router as talking_router
from sam2core_web.tracking import router as tracking_router

LOG = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
SWEEP = 20.0
"""Seconds between looks for idle sessions."""
DESCRIPTION = """Segment pictures and track objects in clips.

Open a session (`POST /api/sessions` or `/api/uploads`), prompt objects, `propagate` as a stream of events, export.
Masks are COCO run lengths. Errors are `{"detail": ...}`. All calls about one session run one after the other;
propagation gives way to them between frames."""


def create_app(
    engine: Engine,
    *,
    limits: Limits | None = None,
    media: Path | None = None,
    token: str | None = None,
    local: bool = True,
    store: Store | None = None,
) -> FastAPI:
    """The server's application over a model.

    `media` is the folder that is offered; `token` is wanted of every call of the API; `local`: only calls for a
    loopback host name are answered; in `store`, sessions outlive the server.
    """
    limits = limits or Limits()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(limits.threads))
        with scratch() as app.state.folder:
            sweeper = asyncio.create_task(_sweep(app.state.sessions, store))
            try:
                yield
            finally:
                sweeper.cancel()
                await app.state.sessions.close_all()
                await asyncio.to_thread(engine.close)
                if store is not None:
                    store.close()

    async def save(session: Session) -> None:
        assert store is not None
        session.saved = False
        try:
            await engine.run(lambda: store.write(session))
            session.saved = True
        except Overtaken:
            app.state.sessions.forget(session)
            raise
        except StoreError as error:  # its work goes on, and the page says that it is not saved
            LOG.error("session %r cannot be saved: %s", session.name, error)

    app = FastAPI(
        title="sam2core",
        version=sam2core.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.engine = engine
    app.state.limits = limits
    app.state.media = media
    app.state.store = store
    app.state.exports = Exports(limits.exports)
    app.state.sessions = Sessions(limits, save=None if store is None else save)
    if store is not None:
        older.take_over(store, lambda of, name: opening.place(app, of, name))
    app.add_middleware(Bodies, limits=limits)
    app.add_middleware(Guard, token=token, local=local)
    app.add_middleware(CutShort)
    app.include_router(router)
    app.include_router(tracking_router)
    app.include_router(exporting_router)
    app.include_router(talking_router)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/healthz", healthz, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/api/{path:path}", nowhere, methods=METHODS, include_in_schema=False)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Unknown, _unknown)
    app.add_exception_handler(Full, _full)
    app.add_exception_handler(DiskError, _disk)
    app.add_exception_handler(ValueError, _value_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


async def healthz() -> dict[str, str]:
    """Whether the server answers; for whoever watches over it, without the token."""
    return {"status": "ok"}


async def nowhere(request: Request) -> JSONResponse:
    """The answer to calls of the API that nothing else answers: the methods that the address has, if it is one."""
    allowed: set[str] = set()
    for route in (*router.routes, *tracking_router.routes, *exporting_router.routes):
        if isinstance(route, Route) and route.path_regex.match(request.url.path):
            allowed |= route.methods or set()
    if not allowed:
        return JSONResponse({"detail": f"there is nothing at {request.url.path}"}, 404)
    methods = ", ".join(sorted(allowed))
    return JSONResponse({"detail": f"{request.method} is not for this address: {methods}"}, 405, {"allow": methods})


async def _sweep(sessions: Sessions, store: Store | None) -> None:
    closed = 0
    while True:
        if store is not None:
            await asyncio.to_thread(store.expire, {session.id for session in sessions.live()})
        await asyncio.sleep(SWEEP)
        await sessions.drop_idle()
        if sessions.closed != closed:
            closed = sessions.closed
            await asyncio.to_thread(give_back_freed_memory)


def _problem(detail: str, status: int) -> JSONResponse:
    """An error in words; where it is one of the moment, with when to ask again."""
    return JSONResponse({"detail": detail}, status, {"retry-after": "5"} if status in (429, 503) else None)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _problem(told(request.app.state, error), error.status)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    return _problem(str(error), 404)


async def _full(request: Request, error: Exception) -> JSONResponse:
    return _problem(str(error), 429)


async def _disk(request: Request, error: Exception) -> JSONResponse:
    """The disk is full, or closed: not the caller's fault, and nothing that asking again soon would mend."""
    LOG.error("%s", error)
    return _problem("the server has no room left on its disk", 507)


async def _gone(request: Request, error: Exception) -> JSONResponse:
    """The answer that nobody reads: the caller went away while it was sending."""
    return _problem("the request broke off", 400)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """What is wrong with a body or an address, as a sentence: where, and what is allowed."""
    wrong = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"] if part not in ("body", "query", "path"))
        wrong.append(f"{place}: {one['msg']}" if place else one["msg"])
    return _problem("; ".join(wrong[:5]), 422)


async def _value_error(request: Request, error: Exception) -> JSONResponse:
    """What the library says of a prompt or a range that makes no sense, or of a frame that is damaged."""
    return _problem(told(request.app.state, error), 422)
