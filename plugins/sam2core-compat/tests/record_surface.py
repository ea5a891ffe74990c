"""Writes the names and signatures of the `sam2` that is importable as a table: run it where Meta's is.

python record_surface.py surface.json
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

MODULES = (
    "sam2.automatic_mask_generator",
    "sam2.build_sam",
    "sam2.modeling.backbones.hieradet",
    "sam2.modeling.backbones.image_encoder",
    "sam2.modeling.memory_attention",
    "sam2.modeling.memory_encoder",
    "sam2.modeling.position_encoding",
    "sam2.modeling.sam.mask_decoder",
    "sam2.modeling.sam.prompt_encoder",
    "sam2.modeling.sam.transformer",
    "sam2.modeling.sam2_base",
    "sam2.sam2_image_predictor",
    "sam2.sam2_video_predictor",
    "sam2.utils.amg",
    "sam2.utils.misc",
    "sam2.utils.transforms",
)


def _shown(default: Any) -> str | None:
    if default is inspect.Parameter.empty:
        return None
    if isinstance(default, tuple | list):
        return repr(tuple(default))
    if callable(default):
        return "callable"
    return repr(int(default)) if isinstance(default, float) and default == int(default) else repr(default)


def signature(function: Any) -> list[list[str | None]]:
    """Each parameter's name, kind and default."""
    parameters = inspect.signature(function).parameters.values()
    return [[one.name, one.kind.name, _shown(one.default)] for one in parameters]


def table() -> dict[str, list[list[str | None]]]:
    """Dotted names of functions, classes and methods defined in `MODULES`, with what they take."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for key, thing in vars(module).items():
            if getattr(thing, "__module__", None) != name:
                continue
            if inspect.isclass(thing):
                found[f"{name}.{key}"] = signature(thing.__init__)
                for member, function in vars(thing).items():
                    function = getattr(function, "__func__", function)
                    if inspect.isfunction(function) and member != "__init__":
                        found[f"{name}.{key}.{member}"] = signature(function)
            elif inspect.isfunction(thing):
                found[f"{name}.{key}"] = signature(thing)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    rows = [f"{json.dumps(name)}: {json.dumps(taken)}" for name, taken in table().items()]
    Path(sys.argv[1]).write_text("{\n" + ",\n".join(rows) + "\n}\n")
