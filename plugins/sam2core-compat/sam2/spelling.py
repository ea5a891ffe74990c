"""What somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def near(name: str, known: Collection[str]) -> str:
    """ ", did you mean 'x'?" when something known looks like the name."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {found[0]!r}?" if found else ""
