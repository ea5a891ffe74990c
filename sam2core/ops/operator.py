"""Operators of this library's own: what compilers see as one step, and plugins attach faster kernels to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("sam2core", "FRAGMENT")

Kernel = Callable[..., Any]


class Operator:
    """A torch operator ``sam2core::NAME`` with one portable kernel and, per kind of device, a faster one if attached.

    `schema` is torch's, such as ``"area(Tensor mask) -> Tensor"``; `fake` tells shapes and types to tracers. Results
    have no gradient. ``torch.library.custom_op`` would do as well, but its first call imports torch's compiler, which
    takes longer than a mask.
    """

    def __init__(self, schema: str, portable: Kernel, fake: Kernel) -> None:
        self.name = schema.partition("(")[0]
        self.__doc__ = portable.__doc__
        self._portable = portable
        self._kernels: dict[str, Kernel] = {}
        _LIBRARY.define(schema)
        _LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"sam2core::{self.name}", fake, lib=_LIBRARY)
        self._operator = getattr(torch.ops.sam2core, self.name)

    def __call__(self, *arguments: Any) -> Any:
        return self._operator(*arguments)

    def register_kernel(self, device: str) -> Callable[[Kernel], Kernel]:
        """Attach a kernel for a kind of device ("cuda", "mps", "cpu", ...), as a decorator; it stays attached."""

        def attach(kernel: Kernel) -> Kernel:
            self._kernels[device] = kernel
            return kernel

        return attach

    def _run(self, first: torch.Tensor, *rest: Any) -> Any:
        return self._kernels.get(first.device.type, self._portable)(first, *rest)
