"""Whether a file is a whole checkpoint, told from its container alone: lengths, checksums, bounds. No tensor is made.

What is read is bounded before anything is: a pickle or a header of a few bytes can ask for gigabytes.
"""

from __future__ import annotations

import mmap
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam2core.storage import FileError, regular_file, size_text

__all__ = ["TORCH_SUFFIXES", "check_container", "check_torch", "is_safetensors", "not_whole", "opened"]

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
HEADER_LIMIT = 16 << 20  # bytes of a safetensors file's list of tensors and of a torch file's pickle
MEMBER_LIMIT = 100_000  # files in a torch file's zip


def check_container(path: str | Path, *, name: str | None = None) -> None:
    """Nothing, where the file is whole, as far as lengths and the checksums in it tell.

    name        what the file will be called, where it has another name for now

    Raises
        FileError: neither a torch nor a safetensors file, damaged, or over a bound.
    """
    path = regular_file(path)
    name = name or path.name
    if is_safetensors(path, name):
        with opened(path, name):
            pass
    else:
        check_torch(path, name)


def is_zip(path: Path) -> bool:
    """Whether a file is a zip, whole or not."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has the marks of one, and they are damaged
        return True


def is_safetensors(path: Path, name: str = "") -> bool:
    suffix = Path(name or path.name).suffix
    return suffix == ".safetensors" or (suffix not in TORCH_SUFFIXES and not is_zip(path))


@contextmanager
def opened(path: Path, name: str = "") -> Iterator[Any]:
    """A safetensors file as its library opens it. Raises FileError."""
    from safetensors import SafetensorError, safe_open

    name = name or path.name
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise not_whole(path, name, "safetensors", "its header is missing.")
    length = int.from_bytes(start, "little")
    if HEADER_LIMIT < length <= path.stat().st_size:
        raise FileError(f"{name}: its header has {size_text(length)}; at most {size_text(HEADER_LIMIT)} are read")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, UnicodeDecodeError, OverflowError) as error:
        raise not_whole(path, name, "safetensors", f"{error}.") from error


def check_torch(path: Path, name: str = "") -> bool:
    """Whether a torch file is of the zip form, after checking its container. Raises FileError."""
    name = name or path.name
    zipped = is_zip(path)
    if zipped:
        _check_zip(path, name)
        return True
    if tarfile.is_tarfile(path):
        # torch's oldest form; before 2.6 it ran code from it even with weights_only (CVE-2025-32434).
        raise FileError(f"{name} is a tar archive, a form of torch file that is not read: save it again")
    with path.open("rb") as file:
        start = file.read(2)
        if start == b"PK":  # torch finds an end in some of these, and speaks of an invalid argument
            raise not_whole(path, name, "torch", "its end is missing")
        if not start.startswith(b"\x80"):
            raise not_whole(path, name, "torch", f"it begins with {start!r}, as no torch file does")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_pickle(content, name)
    return False


def _check_zip(path: Path, name: str) -> None:
    """Every byte against the zip's own checksums, which torch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MEMBER_LIMIT:
                raise FileError(f"{name} holds {len(members)} files; at most {MEMBER_LIMIT} are read")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                    raise FileError(
                        f"{name}: {member.filename!r} in it is compressed or locked: let torch save it anew"
                    )
                if member.filename.endswith("data.pkl"):
                    if member.file_size > HEADER_LIMIT:
                        raise FileError(
                            f"{name}: its pickle has {size_text(member.file_size)}; "
                            f"at most {size_text(HEADER_LIMIT)} are read"
                        )
                    _check_pickle(archive.read(member), name)
            if (wrong := archive.testzip()) is not None:
                raise not_whole(path, name, "torch", f"the checksum of {wrong!r} in it is wrong")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error, ValueError, RuntimeError) as error:
        if isinstance(error, FileError):
            raise
        raise not_whole(path, name, "torch", str(error).splitlines()[0] if str(error) else repr(error)) from error


def _check_pickle(content: bytes | mmap.mmap, name: str) -> None:
    # the one call that torch allows in a file and that takes memory by a number: bytearray(3_000_000_000)
    if content.find(b"bytearray") >= 0:
        raise FileError(f"{name} holds more than tensors and plain values (a bytearray): save it again without")


def not_whole(path: Path, name: str, kind: str, reason: str) -> FileError:
    return FileError(
        f"{name} is no whole {kind} file ({path.stat().st_size} bytes): {reason}\n"
        "  it may have been cut short while copying or downloading: get it again"
    )
