"""Whose `sam2` it is: several projects install a package of that name, and only Meta's is a reference."""

from __future__ import annotations

import pytest


def need_upstream() -> None:
    """Skip where `import sam2` does not give Meta's: none is installed, or it is our drop-in of that name."""
    sam2 = pytest.importorskip("sam2", reason="upstream is the reference: pip install sam2==1.1.0")
    if "sam2core-compat" in (sam2.__doc__ or ""):
        pytest.skip("the `sam2` that is installed is sam2core-compat's, not Meta's", allow_module_level=True)
