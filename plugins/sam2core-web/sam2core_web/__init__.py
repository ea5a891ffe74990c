"""A web page and an HTTP API for sam2core: adds the verb `sam2core serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam2core import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def register_commands(commands: click.Group) -> None:
    from sam2core_web.command import serve

    commands.add_command(serve)
