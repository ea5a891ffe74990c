"""Undo and redo: the latest changes of a dict's entries, to be taken back and given again."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

UNDO_STEPS = 64
Step = tuple[Key, Value | None, int]
"""An entry as it was before a change, None where there was none, and its place among the others."""


class History(Generic[Key, Value]):
    """What entries of a dict were before their latest changes, `UNDO_STEPS` at most.

    An entry that comes back, be it that its removal is undone, stands where it stood among the others. Values are kept
    as they are: a change replaces an entry by another value, and never edits it.
    """

    def __init__(self, undo: Iterable[Step[Key, Value]] = (), redo: Iterable[Step[Key, Value]] = ()) -> None:
        self._undo = list(undo)
        self._redo = list(redo)

    @property
    def steps(self) -> tuple[list[Step[Key, Value]], list[Step[Key, Value]]]:
        """What `undo` and what `redo` would take, the next step last; a history is made of them anew."""
        return list(self._undo), list(self._redo)

    @property
    def undoable(self) -> int:
        return len(self._undo)

    @property
    def redoable(self) -> int:
        return len(self._redo)

    def remember(self, entries: dict[Key, Value], key: Key) -> None:
        """Before an entry is added, replaced or removed. What was undone cannot be given again after that."""
        self._undo.append(_entry(entries, key))
        del self._undo[:-UNDO_STEPS]
        self._redo.clear()

    def undo(self, entries: dict[Key, Value]) -> Key | None:
        """Take the latest change back. The entry's key, or None when there is none to take back."""
        return self._swap(entries, self._undo, self._redo)

    def redo(self, entries: dict[Key, Value]) -> Key | None:
        """Give back the change that `undo` took last. The entry's key, or None."""
        return self._swap(entries, self._redo, self._undo)

    def values(self) -> Iterator[Value]:
        """What undo and redo would bring back."""
        return (value for _, value, _ in (*self._undo, *self._redo) if value is not None)

    def clear(self) -> None:
        self._undo.clear()
        self._redo.clear()

    def copy(self) -> History[Key, Value]:
        return History(*self.steps)

    @staticmethod
    def _swap(
        entries: dict[Key, Value],
        taken: list[Step[Key, Value]],
        given: list[Step[Key, Value]],
    ) -> Key | None:
        if not taken:
            return None
        key, value, place = taken.pop()
        given.append(_entry(entries, key))
        if value is None:
            entries.pop(key, None)
        elif key in entries:
            entries[key] = value
        else:
            order = list(entries.items())
            order.insert(place, (key, value))
            entries.clear()
            entries.update(order)
        return key


def _entry(entries: Mapping[Key, Value], key: Key) -> Step[Key, Value]:
    """An entry as it is now, and its place; where there is none, the place at which it would be added."""
    place = list(entries).index(key) if key in entries else len(entries)
    return key, entries.get(key), place
