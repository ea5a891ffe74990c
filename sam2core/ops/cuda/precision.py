"""TF32 for what a model of mixed precision leaves in fp32."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class _Tf32:
    """How many calls want TF32 now, in all threads; torch has one setting for the whole process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0
        self.before = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within it, fp32 products on a GPU round their factors to TF32; afterwards all is as it was before."""
        with self.lock:
            if self.calls == 0:
                self.before = torch.backends.cuda.matmul.allow_tf32
                torch.backends.cuda.matmul.allow_tf32 = True
            self.calls += 1
        try:
            yield
        finally:
            with self.lock:
                self.calls -= 1
                if self.calls == 0:
                    torch.backends.cuda.matmul.allow_tf32 = self.before


tf32 = _Tf32()


def rounded(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb of a `Sam2`, computed with TF32 where the model is of mixed precision: fp32 that was asked for stays.

    The heads of such a model are made in fp32 to keep logits finer than bfloat16's eight bits; TF32 has eleven.
    """

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.dtype == torch.float32 or self.device.type != "cuda":
            return verb(self, *arguments, **options)
        with tf32():
            return verb(self, *arguments, **options)

    return call
