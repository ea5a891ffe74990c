"""What this package offers to sam2core. Imports no torch: names are strings until a model is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core import hookimpl


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    register("memory_policy", "example.confident", "sam2core_example.policy:ConfidentFrames")


@hookimpl
def register_specs(register: Callable[[str | Path], None]) -> None:
    register(Path(__file__).parent / "specs")
