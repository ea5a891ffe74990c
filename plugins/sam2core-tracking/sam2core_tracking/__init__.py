"""Memory policies for tracking: what moves plausibly, what looks like something else, and several guesses at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sam2core.hooks import hookimpl

COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("memory_policy", "tracking.motion", "sam2core_tracking.motion:MotionAware"),
    ("memory_policy", "tracking.distractor", "sam2core_tracking.distractor:DistractorAware"),
    ("predictor", "tracking.beam", "sam2core_tracking.beam:BeamPredictor"),
)


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    for kind, name, target in COMPONENTS:
        register(kind, name, target)
