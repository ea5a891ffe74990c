"""What closed sessions held goes back to the system, although `sam2core` tells glibc to keep what is freed."""

from __future__ import annotations

import ctypes
import platform


def give_back_freed_memory() -> None:
    """Return freed memory to the system, on glibc; elsewhere that is the system's own affair."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
