"""The compiled functions, by ctypes: calls leave Python free for other threads."""

from __future__ import annotations

import ctypes
import functools
import platform
import sysconfig
from pathlib import Path

PATH = Path(__file__).with_name(f"average{sysconfig.get_config_var('EXT_SUFFIX')}")


@functools.cache
def load() -> ctypes.CDLL:
    """The library. Raises ImportError where it was not compiled, or not for this Python."""
    if not PATH.exists():
        raise ImportError(
            f"{PATH.name} was not compiled when sam2core-amx was installed: install a C++ compiler (g++ 12 or newer, or"
            " clang) and then sam2core-amx again, with pip install --force-reinstall --no-deps --no-cache-dir"
        )
    import torch  # noqa: F401 -- brings the threads that the library then finds

    library = ctypes.CDLL(str(PATH))
    library.sam2core_amx_missing.restype = ctypes.c_char_p
    if library.sam2core_amx_missing():
        return library
    at, number = ctypes.c_void_p, ctypes.c_long
    tensors = (at, number, number, at, number, at, number, at)
    library.sam2core_amx_average.argtypes = [*tensors, number, number, number, ctypes.c_float, at, number, number]
    library.sam2core_amx_turn.argtypes = [at, number, number, at, number, at, number, number]
    return library


@functools.cache
def missing() -> str:
    """Why there is no kernel on this machine; empty where there is one.

    Raises ImportError as `load` does, on a machine whose processor could run it.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "no x86-64 processor under Linux"
    if " amx_bf16" not in Path("/proc/cpuinfo").read_text():
        return "the processor has no tiles for bfloat16 (AMX), or the system hides them"
    reason = load().sam2core_amx_missing()
    return reason.decode() if reason else ""
