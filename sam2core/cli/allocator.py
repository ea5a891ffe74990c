"""glibc's allocator, told to keep what it has: large buffers are otherwise given back, and faulted in at every use."""

from __future__ import annotations

import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
"""No buffer is a mapping of its own (glibc caps M_MMAP_THRESHOLD at 32 MB); up to 2 GB of what is freed stays here."""
KEEP = "SAM2CORE_MALLOC"


def keep_freed_memory() -> str:
    """Set the thresholds for this process; what was done, or why nothing was, in a few words.

    Nothing is done off glibc, where the environment sets glibc's thresholds already, and with SAM2CORE_MALLOC=default.
    """
    if os.environ.get(KEEP) == "default":
        return f"the system's own, as {KEEP}=default asks"
    if platform.libc_ver()[0] != "glibc":
        return "the system's own: the settings are glibc's"
    if named := sorted(name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"):
        return f"as the environment says: {', '.join(named)}"
    import ctypes

    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    refused = [parameter for parameter, value in SETTINGS.items() if not mallopt(parameter, value)]
    if refused:
        return f"glibc refused the settings {refused}"
    return (
        f"glibc keeps up to 2 GB of freed memory, so that large buffers are not faulted in again ({KEEP}=default: not)"
    )
