"""The parts of SAM 2 and their uses, in plain PyTorch: `from sam2core import registry` builds models by name.

Names are loaded on first touch, so importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from sam2core.hooks import hookimpl as hookimpl
    from sam2core.memory.policy import MemoryPolicy as MemoryPolicy
    from sam2core.memory.policy import RecentFrames as RecentFrames
    from sam2core.model import Sam2 as Sam2
    from sam2core.predictors.image import ImagePredictor as ImagePredictor
    from sam2core.types import DecoderOutput as DecoderOutput
    from sam2core.types import FrameMemory as FrameMemory
    from sam2core.types import ImageFeatures as ImageFeatures
    from sam2core.types import Keep as Keep
    from sam2core.types import Label as Label
    from sam2core.types import MaskCandidates as MaskCandidates
    from sam2core.types import MaskPrediction as MaskPrediction
    from sam2core.types import Multimask as Multimask
    from sam2core.types import Prompt as Prompt
    from sam2core.types import Recall as Recall
    from sam2core.types import TokenBlock as TokenBlock

    registry: ModuleType

__version__ = "0.1.0"

_NOUNS = """
DecoderOutput FrameMemory ImageFeatures Keep Label MaskCandidates MaskPrediction Multimask Prompt Recall TokenBlock
"""
_MODULES: dict[str, str] = {
    "hookimpl": "sam2core.hooks",
    "ImagePredictor": "sam2core.predictors.image",
    "MemoryPolicy": "sam2core.memory.policy",
    "RecentFrames": "sam2core.memory.policy",
    "Sam2": "sam2core.model",
    **dict.fromkeys(_NOUNS.split(), "sam2core.types"),
}

__all__ = [*sorted(_MODULES), "registry", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = getattr(importlib.import_module(_MODULES[name]), name)
    elif name == "registry":
        value = _registry()
    else:
        raise AttributeError(f"module 'sam2core' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _registry() -> ModuleType:
    """The package `registry` that belongs to this one. A stranger of that name is named, and not run to find out."""
    import sys
    from importlib.util import find_spec
    from pathlib import Path

    ours = Path(__file__).resolve().parent.parent / "registry" / "__init__.py"
    loaded = sys.modules.get("registry")
    if loaded is not None:
        found = getattr(loaded, "__file__", None)
    else:
        spec = find_spec("registry")
        found = None if spec is None else spec.origin
    if found is not None and Path(found).resolve() == ours:
        return importlib.import_module("registry")
    if found is None and loaded is None:
        raise ImportError(f"sam2core's package `registry` is not where it was installed: {ours}")
    raise ImportError(
        f"another module called `registry` shadows sam2core's: {found or loaded!r} is in the way of {ours}; "
        "rename it, or take its folder off sys.path"
    )
