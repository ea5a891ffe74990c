"""`sam2core serve` says that it is ready when it is, and why when it cannot be."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from sam2core_web.command import listen, run
from sam2core_web.limits import Limits

from sam2core.cli import Failure, main


def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = CliRunner().invoke(main, ["serve", "--port", str(port)])
    assert ended.exit_code == 1 and "is ready" not in ended.output
    assert f"cannot listen on 127.0.0.1, port {port} (--port takes another): " in ended.output


def test_an_application_that_does_not_start() -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise OSError("the disk is full")
        yield

    with listen("127.0.0.1", 0) as listener, pytest.raises(Failure, match="did not start"):
        run(FastAPI(lifespan=lifespan), listener, Limits())
