"""Operators of this library's own: what compilers see as one step, and plugins attach faster kernels to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("sam2core", "FRAGMENT")

Kernel = Callable[..., Any]


class Operator:
    """A torch operator ``sam2core::NAME`` with one portable kernel and, by device and type, faster ones if attached.

    `schema` is torch's, such as ``"area(Tensor mask) -> Tensor"``; `fake` tells shapes and types to tracers. Results
    have no gradient. ``torch.library.custom_op`` would do as well, but its first call imports torch's compiler, which
    takes longer than a mask.
    """

    def __init__(self, schema: str, portable: Kernel, fake: Kernel) -> None:
        self.name = schema.partition("(")[0]
        self.__doc__ = portable.__doc__
        self._portable = portable
        self._kernels: dict[tuple[str, torch.dtype | None], Kernel] = {}
        _LIBRARY.define(schema)
        _LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"sam2core::{self.name}", fake, lib=_LIBRARY)
        self._operator = getattr(torch.ops.sam2core, self.name)

    def __call__(self, *arguments: Any) -> Any:
        return self._operator(*arguments)

    def register_kernel(self, device: str, dtype: torch.dtype | None = None) -> Callable[[Kernel], Kernel]:
        """Attach a kernel for a kind of device ("cuda", "mps", "cpu", ...), as a decorator; it stays attached.

        With a `dtype` it serves first arguments of this type alone, before one for any type.
        """

        def attach(kernel: Kernel) -> Kernel:
            self._kernels[device, dtype] = kernel
            return kernel

        return attach

    def attached(self, first: torch.Tensor) -> bool:
        """Whether a call with this first argument meets an attached kernel."""
        device = first.device.type
        return (device, first.dtype) in self._kernels or (device, None) in self._kernels

    def _run(self, first: torch.Tensor, *rest: Any) -> Any:
        device = first.device.type
        kernel = self._kernels.get((device, first.dtype)) or self._kernels.get((device, None), self._portable)
        return kernel(first, *rest)
