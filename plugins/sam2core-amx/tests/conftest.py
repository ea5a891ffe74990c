from __future__ import annotations

import pytest
from sam2core_amx.library import missing


@pytest.fixture
def tiles() -> None:
    """Skips the test where the kernel cannot run; an uncompiled library on a machine that has tiles is an error."""
    if reason := missing():
        pytest.skip(reason)
