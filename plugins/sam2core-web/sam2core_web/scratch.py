"""One server's folder for uploads and exports: gone when it ends, or, if it was killed, when another one starts.

A server keeps its folder locked; the system gives the lock back however the server ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where folders of killed servers stay
    fcntl = None  # type: ignore[assignment]

PREFIX = "sam2core-web-"
YOUNG = 60.0
"""Seconds in which a folder without a lock may be one whose server is just starting."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder for this user alone, in the system's place for such, until the block ends."""
    _remove_dead(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with contextlib.ExitStack() as stack:
            if fcntl is not None:
                assert stack.enter_context(_locked(folder))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_dead(place: Path) -> None:
    """Remove this user's folders that no server holds."""
    if fcntl is None:
        return
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another server may be removing it, too
            found = folder.lstat()
            mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if mine and time.time() - found.st_mtime > YOUNG:
                with _locked(folder) as dead:
                    if dead:
                        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock; whether it was free."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
