"""EdgeTAM as parts for sam2core: RepViT, a perceiver that compresses memories, and the tables of tensor names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core.hooks import hookimpl

COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("backbone", "edgetam.repvit_m1", "sam2core_edgetam.backbone:RepVit"),
    ("memory_encoder", "edgetam.perceiver", "sam2core_edgetam.perceiver:PerceiverMemoryEncoder"),
    ("layout", "edgetam", "sam2core_edgetam.layouts:EDGETAM"),
    ("layout", "edgetam-huggingface", "sam2core_edgetam.layouts:HUGGINGFACE"),
)


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    for kind, name, target in COMPONENTS:
        register(kind, name, target)


@hookimpl
def register_specs(register: Callable[[str | Path], None]) -> None:
    register(Path(__file__).parent / "specs")
