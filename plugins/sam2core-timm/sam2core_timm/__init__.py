"""Pretrained classifiers as backbones for sam2core: timm's, torchvision's, and a neck for plain ViTs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core.hooks import hookimpl

COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("backbone", "timm", "sam2core_timm.timm_models:timm_trunk"),
    ("backbone", "torchvision", "sam2core_timm.torchvision_models:torchvision_trunk"),
    ("neck", "timm.pyramid", "sam2core_timm.pyramid:SimplePyramid"),
)


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    for kind, name, target in COMPONENTS:
        register(kind, name, target)


@hookimpl
def register_specs(register: Callable[[str | Path], None]) -> None:
    register(Path(__file__).parent / "specs")
