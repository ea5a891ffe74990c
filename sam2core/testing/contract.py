"""What every examination shares: rules and their messages, made-up inputs, comparisons."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from registry.kinds import KINDS

_WIDTHS = {"dim": 32, "memory_dim": 16, "workers": 2}
_WORKERS = {"workers": 2}
_PYRAMID = {"channels": (8, 16, 32, 64), "strides": (4, 8, 16, 32)}
GIVEN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        kind: MappingProxyType({k: v for k, v in (_WIDTHS | _PYRAMID | _WORKERS).items() if k in KINDS[kind].passes})
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


# values: tensors within tuples, lists, mappings and the dataclasses of sam2core.types


def tensors(value: Any, name: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within a value, with words that say where it is."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, np.ndarray):
        yield name, torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors(item, f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from tensors(item, f"{name}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from tensors(getattr(value, entry.name), f"{name}.{entry.name}")


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: changed(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(changed(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {entry.name: changed(getattr(value, entry.name), change) for entry in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The value with its floating tensors in another type."""
    return changed(value, lambda x: x.to(dtype) if x.is_floating_point() else x)


def has_shape(name: str, tensor: Any, shape: Sequence[int]) -> None:
    """Raise Found unless this is a tensor of that shape."""
    if not isinstance(tensor, Tensor):
        raise Found(f"{name} is a {type(tensor).__name__}, not a tensor")
    if tuple(tensor.shape) != tuple(shape):
        raise Found(f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}")


def difference(one: Any, other: Any, *, rows: slice = slice(None)) -> tuple[float, str]:
    """The largest difference between two values' floating tensors, in spreads of each, and where it is."""
    worst, place = 0.0, "output"
    for (name, a), (_, b) in zip(tensors(one), tensors(other), strict=True):
        a, b = a[rows].detach().double(), b[rows].detach().double()
        if a.shape != b.shape:
            return float("inf"), f"{name}, whose shape is {tuple(a.shape)} once and {tuple(b.shape)} then"
        if not a.numel():
            continue
        gap = (a - b).abs().max().item() / (a.abs().max().item() + 1e-12)
        if not gap <= worst:  # a nan is worse than anything
            worst, place = gap, name
    return worst, place


def same(one: Any, other: Any, words: str, *, within: float = 1e-4, rows: slice = slice(None)) -> None:
    """Raise Found, with these words, where two values differ by more than a part of their spread."""
    gap, place = difference(one, other, rows=rows)
    if not gap <= within:
        raise Found(f"{place} {words} (by {gap:.2g} of its largest value)")
