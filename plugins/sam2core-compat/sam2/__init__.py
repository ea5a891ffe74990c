"""The package `sam2` over sam2core: Meta's names and signatures. It belongs to the distribution sam2core-compat.

Importing it imports no torch. Where Hydra is installed, its configurations are found under ``pkg://sam2``, as Meta's
sam2 leaves it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_FOREIGN = ("sam2_video_predictor_legacy.py", "csrc", "_C.so")
"""Files that Meta's distribution has in this folder and ours has not."""
_SHARED = ("benchmark.py", "modeling/sam2_base.py", "modeling/backbones/utils.py")
"""Files that both have; ours speak of sam2core."""


def _mixed(folder: Path) -> list[str]:
    """What another distribution's `sam2` has left in a folder, or put over ours there."""
    found = [name for name in _FOREIGN if (folder / name).exists()]
    for name in _SHARED:
        if not (folder / name).is_file() or "sam2core" not in (folder / name).read_text(encoding="utf-8"):
            found.append(name)
    return found


def _check(folder: Path) -> None:
    if found := _mixed(folder):
        raise ImportError(
            f"the package `sam2` in {str(folder)!r} is a mixture of sam2core-compat and another distribution: "
            f"{', '.join(found)} is not ours. Both install a package of this name, and one has overwritten the other. "
            "Remove both, then install one:\n"
            "    pip uninstall -y sam2 SAM-2 sam2core-compat\n"
            "    pip install sam2core-compat"
        )


def _hydra() -> None:
    """Let Hydra find our configurations, if it is there and nobody has told it another place."""
    if importlib.util.find_spec("hydra") is None:
        return
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    if not GlobalHydra.instance().is_initialized():
        initialize_config_module("sam2", version_base="1.2")


_check(Path(__file__).parent)
_hydra()
