"""A weights file to be downloaded, and what a download leaves in a folder."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile


def archive(size: int) -> bytes:
    """A zip of just so many bytes, as a torch file is one."""
    made = zipped(random.Random(0).randbytes(size - len(zipped(b""))))
    assert len(made) == size
    return made


def zipped(payload: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(zipfile.ZipInfo("w/data/0"), payload)
    return made.getvalue()


CONTENT = archive(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock"))
