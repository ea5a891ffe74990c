"""Operators: what kernels attach to, by the kind of device and the type they serve."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("sam2core", "FRAGMENT")

Kernel = Callable[..., Any]


class _Kernels:
    """Kernels by device and type; the first argument of a call decides."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[str, torch.dtype | None], Kernel] = {}

    def register_kernel(self, device: str, dtype: torch.dtype | None = None) -> Callable[[Kernel], Kernel]:
        """Attach a kernel for a kind of device ("cuda", "mps", "cpu", ...), as a decorator; it stays attached.

        With a `dtype` it serves first arguments of this type alone, before one for any type.
        """

        def attach(kernel: Kernel) -> Kernel:
            self._kernels[device, dtype] = kernel
            return kernel

        return attach

    def kernel(self, first: torch.Tensor) -> Kernel | None:
        """The kernel that a call with this first argument meets; None: none is attached."""
        device = first.device.type
        return self._kernels.get((device, first.dtype)) or self._kernels.get((device, None))

    def attached(self, first: torch.Tensor) -> bool:
        """Whether a call with this first argument meets an attached kernel."""
        return self.kernel(first) is not None


class Operator(_Kernels):
    """A torch operator ``sam2core::NAME`` with one portable kernel and, by device and type, faster ones if attached.

    Tracers see one step. `schema` is torch's, such as ``"area(Tensor mask) -> Tensor"``; `fake` tells shapes and types
    to tracers. Results have no gradient. ``torch.library.custom_op`` would do as well, but its first call imports
    torch's compiler, which takes longer than a mask.
    """

    def __init__(self, schema: str, portable: Kernel, fake: Kernel) -> None:
        super().__init__()
        self.name = schema.partition("(")[0]
        self.__doc__ = portable.__doc__
        self.portable = portable
        """The kernel that serves where none is attached."""
        _LIBRARY.define(schema)
        _LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"sam2core::{self.name}", fake, lib=_LIBRARY)
        self._operator = getattr(torch.ops.sam2core, self.name)

    def __call__(self, *arguments: Any) -> Any:
        return self._operator(*arguments)

    def _run(self, first: torch.Tensor, *rest: Any) -> Any:
        return (self.kernel(first) or self.portable)(first, *rest)


class Composite(_Kernels):
    """A function of tensors, written plainly with torch's own operators; tracers and gradients see through it.

    A decorator. A kernel gets every call on its device, in training and in traces as well, and hands those that it is
    not for to `plain`, the definition.
    """

    def __init__(self, plain: Kernel) -> None:
        super().__init__()
        functools.update_wrapper(self, plain)
        self.plain = plain

    def __call__(self, first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return (self.kernel(first) or self.plain)(first, *rest, **options)
