"""What examinations do with values: find their tensors, change them, compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam2core.testing.rules import Found


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
