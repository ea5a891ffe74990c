"""Ray for sam2core: the engine "ray", for `sam2core evaluate vos --engine ray`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sam2core import hookimpl


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    register("engine", "ray", "sam2core_ray.engine:RayEngine")
