"""EfficientTAM as parts for sam2core: plain ViTs, a neck of one level, memory attention over pooled keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core.hooks import hookimpl

COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("backbone", "efficienttam.vit_ti", "sam2core_efficienttam.backbone:vit_ti"),
    ("backbone", "efficienttam.vit_s", "sam2core_efficienttam.backbone:vit_s"),
    ("neck", "efficienttam.single", "sam2core_efficienttam.neck:SingleLevelNeck"),
    ("memory_attention", "efficienttam.pooled", "sam2core_efficienttam.attention:PooledMemoryAttention"),
    ("layout", "efficienttam", "sam2core_efficienttam.layouts:EFFICIENTTAM"),
)


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    for kind, name, target in COMPONENTS:
        register(kind, name, target)


@hookimpl
def register_specs(register: Callable[[str | Path], None]) -> None:
    register(Path(__file__).parent / "specs")
