"""The places where a plugin joins in. A plugin is any module with functions marked @hookimpl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

PROJECT = "sam2core"  # one word for the pluggy project, the entry-point group and the console script

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_components(register: Callable[[str, str, Any], None]) -> None:
    """Offer parts by name: ``register(kind, name, target)``. Asked once, at discovery; imports no torch.

    kind    one of registry.KINDS, such as "memory_policy"
    name    what a spec writes as `type`; prefix it with your package: "acme.motion"
    target  a callable, or "package.module:attribute", imported when a spec first asks for it
    """


@hookspec
def register_specs(register: Callable[[str | Path], None]) -> None:
    """Offer models: ``register(folder)`` with YAML specs; a file's stem is the model's name. Asked at discovery."""


@hookspec
def register_recipes(register: Callable[[str | Path], None]) -> None:
    """Offer training recipes: ``register(folder)`` with YAML files; a file's stem is the recipe's name.

    Asked at discovery.
    """


@hookspec
def register_kernels() -> None:
    """Attach faster kernels to the operators in `sam2core.ops`, with `op.register_kernel(device)`.

    Asked once, before the first model is built.
    """


@hookspec
def register_commands(commands: click.Group) -> None:
    """Add subcommands to the `sam2core` program: ``commands.add_command(...)`` on its click group."""
