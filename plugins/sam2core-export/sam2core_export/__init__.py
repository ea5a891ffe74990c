"""A model as four graphs: `sam2core export NAME --format onnx|torch_export -o DIR`, `sam2core compile NAME -o DIR`,
and a runner for them.

from sam2core_export import predictor

session = predictor("graphs/", "video").open("clip.mp4")   # the same sessions, on exported graphs
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sam2core import hookimpl

if TYPE_CHECKING:
    import click

    from sam2core_export.runner import GraphSam2 as GraphSam2
    from sam2core_export.runner import load as load
    from sam2core_export.runner import predictor as predictor
    from sam2core_export.write import export as export

_HOMES = {"GraphSam2": "runner", "load": "runner", "predictor": "runner", "export": "write"}


def __getattr__(name: str) -> Any:  # importing the plugin imports no torch
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


@hookimpl
def register_commands(commands: click.Group) -> None:
    from sam2core_export.command import command, compile_command

    commands.add_command(command, "export")
    commands.add_command(compile_command, "compile")
