"""A plugin as a stranger would write it: a backbone, a memory policy and a model. No torch import here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sam2core import hookimpl


@hookimpl
def register_components(register: Callable[[str, str, object], None]) -> None:
    register("backbone", "acme.pyramid", "acme_pyramid.backbone:Pyramid")
    register("memory_policy", "acme.sure", "acme_pyramid.policy:SureFrames")


@hookimpl
def register_specs(register: Callable[[Path], None]) -> None:
    register(Path(__file__).parent / "specs")
