"""Tables that depend on sizes alone: made once, outside inference mode, and never kept from a trace."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Table = TypeVar("Table", Tensor, "tuple[Tensor, Tensor]")


class _Kept:
    """The tables of one function; an object, since compiled code would be specialised on what a bare dict holds."""

    def __init__(self) -> None:
        self.tables: dict[Any, Any] = {}
        self.lock = threading.Lock()


def remembered(count: int) -> Callable[[Callable[..., Table]], Callable[..., Table]]:
    """Remember the last `count` tables that a function makes, by its (positional, hashable) arguments.

    A table first needed by a prediction can serve a training step later, since it is made outside inference mode.
    While a model is exported or fake tensors are in use, what is made is not real: it is used there and not kept.
    Any number of threads may ask at once.
    """

    def wrap(make: Callable[..., Table]) -> Callable[..., Table]:
        kept = _Kept()

        @functools.wraps(make)
        def get(*key: Any) -> Table:
            if torch.compiler.is_compiling():
                return make(*key)
            found = kept.tables.get(key)
            if found is not None:
                return found
            with torch.inference_mode(False), torch.no_grad():
                made = make(*key)
            if all(type(tensor) is Tensor for tensor in ((made,) if isinstance(made, Tensor) else made)):
                with kept.lock:
                    kept.tables[key] = made
                    while len(kept.tables) > count:
                        del kept.tables[next(iter(kept.tables))]
            return made

        return get

    return wrap


def from_host(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Numbers, nested as the tensor's shape is, as an fp32 tensor on a device, without waiting for the device."""
    # pinned: a plain copy would hold up the host until the device has caught up
    host = torch.tensor(numbers, dtype=torch.float32, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
