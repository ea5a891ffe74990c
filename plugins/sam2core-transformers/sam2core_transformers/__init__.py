"""Detectors of transformers for sam2core: the detector "transformers", for `segment` and `track --detector`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sam2core import hookimpl


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    register("detector", "transformers", "sam2core_transformers.detector:PipelineDetector")
