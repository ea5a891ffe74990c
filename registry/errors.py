"""What a user can get wrong. Every message says what was asked, what exists, and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sam2core.older import ELSEWHERE


class UnknownName(ValueError):
    """A model, kind, component or task nobody offers."""


class DuplicateName(ValueError):
    """A name two distributions offer. The first keeps it; nothing is renamed, nothing is overwritten."""


class SpecError(ValueError):
    """A spec, an override or an option that does not fit."""


class WeightsError(ValueError):
    """Weights that are missing, incomplete or made for another model."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was most likely meant to be, or None when nothing is close."""
    names = list(known)
    if (ours := ELSEWHERE.get(word)) in names:
        return ours
    lower = {name.lower(): name for name in reversed(names)}
    match = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    if match:
        return lower[match[0]]
    # "samurai" for "acme.samurai": a name written without its package
    tails = [name for name in names if name.lower().rpartition(".")[2] == word.lower()]
    return tails[0] if tails else None


def hint(word: str, known: Iterable[str]) -> str:
    """The words "did you mean ...?" as a line of a message, or nothing."""
    match = nearest(word, known)
    return f"\n  did you mean {match!r}?" if match is not None else ""
