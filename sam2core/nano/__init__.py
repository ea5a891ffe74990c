"""The embedded model that comes along, as a plugin that lies in the tree: parts, starting weights, recipes and data.

What it offers is registered through the same hooks as anyone's; nothing imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core.hooks import hookimpl

HERE = Path(__file__).parent
COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("backbone", "hiera_nano", "sam2core.nano.backbone:hiera_nano"),
    ("prompt_encoder", "drawn", "sam2core.nano.prompt_encoder:DrawnPromptEncoder"),
    ("mask_decoder", "guided", "sam2core.nano.guided_mask_decoder:GuidedMaskDecoder"),
    ("memory_policy", "carried_mask", "sam2core.nano.memory_policy:CarriedMask"),
    ("initialisation", "localised", "sam2core.nano.initialisation:Localised"),
)


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    for kind, name, target in COMPONENTS:
        register(kind, name, target)


@hookimpl
def register_specs(register: Callable[[str | Path], None]) -> None:
    register(HERE / "specs")


@hookimpl
def register_recipes(register: Callable[[str | Path], None]) -> None:
    register(HERE / "recipes")
