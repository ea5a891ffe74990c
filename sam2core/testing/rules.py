"""What every examination shares: rules, their messages, and what parts are made with. Imports no torch."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any

from registry.kinds import KINDS

_WIDTHS = {"dim": 32, "memory_dim": 16, "workers": 2}
_SIZE = {"image_size": (64, 96)}
_WORKERS = {"workers": 2}
_PYRAMID = {"channels": (8, 16, 32, 64), "strides": (4, 8, 16, 32)}
GIVEN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        kind: MappingProxyType(
            {k: v for k, v in (_WIDTHS | _PYRAMID | _WORKERS | _SIZE).items() if k in KINDS[kind].passes}
        )
        for kind in KINDS
    }
)
"""The keywords that `check` passes to a part of each kind, as the registry does with a small model's widths."""


class ContractError(AssertionError):
    """A part that is not what its kind wants. The message says which rule, what is wanted and what was found."""


class Found(Exception):
    """What a rule found to be wrong; `Examination.rule` makes it a ContractError."""


class Examination:
    """One part under examination: its kind and what to call it."""

    def __init__(self, kind: str, label: str) -> None:
        self.kind = kind
        self.label = label

    def rule(self, name: str, wants: str) -> _Rule:
        """A rule of the contract: within it, anything raised breaks the rule."""
        return _Rule(self, name, wants)


class _Rule:
    def __init__(self, examination: Examination, name: str, wants: str) -> None:
        self.examination, self.name, self.wants = examination, name, wants

    def __enter__(self) -> _Rule:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, ContractError) or not isinstance(error, Exception):
            return
        found = str(error) if isinstance(error, Found) else f"{_raised(error)}"
        kind, label = self.examination.kind, self.examination.label
        raise ContractError(
            f"{kind} {label} breaks its contract: {self.name}\n"
            f"  wanted: {self.wants}\n"
            f"  found:  {found}\n"
            f"  see:    {KINDS[kind].protocol.replace(':', '.')}"
        ) from (None if isinstance(error, Found) else error)


def _raised(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = "\n          ".join(str(error).strip().splitlines()[:6])
    return f"{type(error).__name__}: {text} (at {last.filename}:{last.lineno})"


def is_target(part: Any) -> bool:
    """Whether this makes parts (a class, a function, a partial), rather than being one."""
    return inspect.isclass(part) or inspect.isroutine(part) or isinstance(part, functools.partial)


def label_of(part: Any) -> str:
    """What to call a part or a target in messages."""
    if isinstance(part, functools.partial):
        return label_of(part.func)
    return getattr(part, "__qualname__", None) or type(part).__qualname__
