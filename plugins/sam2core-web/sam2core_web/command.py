"""`sam2core serve`: the page and the API, in one process."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli import Failure
from sam2core.cli.options import DEFAULT_MODEL, build_arguments, model_options, pairs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sam2core_web.limits import Limits
    from sam2core_web.store import Store


def _token(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    from sam2core_web.guard import check_token

    try:
        if value is not None:
            check_token(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--media", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
              help="A folder whose images and videos are offered on the page.")  # fmt: skip
@click.option(
    "--token",
    metavar="TOKEN",
    callback=_token,
    help="What callers must show.  [default: none on loopback, else a new one]",
)
@click.option("--max-upload", type=click.IntRange(min=1), default=512, show_default=True, metavar="MB")
@click.option("--max-frames", type=click.IntRange(min=1), default=1500, show_default=True, help="Of one video.")
@click.option("--idle", type=click.IntRange(min=1), default=30, show_default=True,
              help="Minutes after which a session that nobody uses is closed.")  # fmt: skip
@click.option("--save", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where sessions are kept and outlive the server.  [default: a folder of the user's]")  # fmt: skip
@click.option("--no-save", is_flag=True, help="Keep no session on disk.")
@click.option("--keep-days", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
              help="How long sessions are kept that nobody uses.")  # fmt: skip
@click.option("--keep-gb", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True,
              help="How much they may take; beyond that those go that were not used for longest.")  # fmt: skip
@model_options
def serve(host: str, port: int, media: Path | None, token: str | None, **options: Any) -> None:
    """Open a page to segment images and track objects in videos; the API is described at /openapi.json.

    \b
    sam2core serve                                    http://127.0.0.1:8000
    sam2core serve --model sam2.1_hiera_l --device cuda --media clips/
    sam2core serve --host 0.0.0.0                     for other machines: prints an address with a token
    """
    import registry
    from sam2core.cli.download import fetch
    from sam2core_web.app import create_app
    from sam2core_web.engine import Engine
    from sam2core_web.limits import Limits

    with listen(host, port) as listener:  # before a model is fetched and loaded for nothing
        store = keeping(options)
        name = options["model"] or DEFAULT_MODEL
        changes = pairs(options["overrides"])
        if options["weights"] is None:
            fetch(registry.spec(name, *changes), quiet=False)
        engine = Engine(name, *changes, **build_arguments(options))
        limits = Limits(
            upload_bytes=options["max_upload"] * 2**20,
            frames=options["max_frames"],
            idle_seconds=options["idle"] * 60.0,
        )
        local = is_loopback(host)
        if token is None and not local:
            token = secrets.token_urlsafe(16)
        app = create_app(engine, limits=limits, media=media, token=token, local=local, store=store)
        shown = host if ":" not in host else f"[{host}]"
        click.echo(f"{name} is ready: http://{shown}:{port}/{f'#token={token}' if token else ''}", err=True)
        run(app, listener, limits)


def keeping(options: dict[str, Any]) -> Store | None:
    """Where sessions are kept, as the options say. Raises Failure when that cannot be."""
    import platformdirs

    from sam2core_web.store import Store, StoreError

    if options["no_save"]:
        if options["save"] is not None:
            raise click.UsageError("--save and --no-save contradict each other: give one of them")
        return None
    folder = options["save"] or Path(platformdirs.user_data_dir("sam2core", appauthor=False)) / "sessions"
    try:
        return Store(folder, seconds=options["keep_days"] * 86400.0, size=int(options["keep_gb"] * 2**30))
    except StoreError as error:
        raise Failure(f"{error} (--save takes another folder, --no-save keeps none)") from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; callers wait there until the server answers. Raises Failure when there can be none."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Failure(f"cannot listen on {host}, port {port} (--port takes another): {error.strerror}") from error


def run(app: FastAPI, listener: socket.socket, limits: Limits) -> None:
    """Serve until the program is asked to stop. Raises Failure when the application does not start."""
    from sam2core_web.leaving import LeavingServer

    server = LeavingServer(app, limits.within(descriptors()))
    try:
        server.run(sockets=[listener])
    except (KeyboardInterrupt, SystemExit):  # how it ends, and how it does when it cannot start: by a code of its own
        pass
    if not server.started:
        raise Failure("the server did not start")


def descriptors() -> int:
    """How many files this process may have open, connections among them (`ulimit -n`)."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return sys.maxsize
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; names other than localhost count as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
