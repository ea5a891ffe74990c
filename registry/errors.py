"""What a user can get wrong. Every message says what was asked, what exists, and the nearest name."""

from __future__ import annotations

from collections.abc import Iterable

from sam2core.older import nearest as nearest


class UnknownName(ValueError):
    """A model, kind, component or task nobody offers."""


class DuplicateName(ValueError):
    """A name two distributions offer. The first keeps it; nothing is renamed, nothing is overwritten."""


class SpecError(ValueError):
    """A spec, an override or an option that does not fit."""


class WeightsError(ValueError):
    """Weights that are missing, incomplete or made for another model."""


def hint(word: str, known: Iterable[str]) -> str:
    """The words "did you mean ...?" as a line of a message, or nothing."""
    match = nearest(word, known)
    return f"\n  did you mean {match!r}?" if match is not None else ""
