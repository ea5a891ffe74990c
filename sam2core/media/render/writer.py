"""What all writers have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import TracebackType
from typing import Any, TypeVar

Self = TypeVar("Self", bound="Writer")


class Writer:
    """What all writers have in common: they are context managers, and finish when the block is left."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to finish: every frame has a file of its own."""


def folder_name(word: Hashable) -> str:
    """An object's id as the name of a folder, on every system. Raises ValueError when it cannot be one."""
    text = str(word)
    plain = text.isprintable() and not set(text) & set('/\\:*?"<>|')
    if not plain or not 0 < len(text) <= 100 or text.strip(". ") != text:
        raise ValueError(
            f'{text!r} cannot name a folder: 1 to 100 characters but / \\ : * ? " < > |, no point or blank at an end'
        )
    return text


def check_count(masks: Any, objects: Sequence[Any]) -> None:
    if len(masks) != len(objects):
        raise ValueError(f"{len(objects)} objects want as many masks, not {len(masks)}")
