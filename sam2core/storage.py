"""Files as the whole project treats them: written whole or not at all, read within limits, named inside one folder.

A text that a stranger wrote (a spec, an annotation, a session) becomes a path through `inside` and an address through
`web_address`. Nothing else in the project renames a temporary file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "DiskError",
    "FileError",
    "check_space",
    "check_writable",
    "disk_errors",
    "finish",
    "inside",
    "json_entry",
    "open_address",
    "parse_json",
    "read_json",
    "read_text",
    "regular_file",
    "relative_name",
    "size_text",
    "web_address",
    "write_text",
    "writing",
]

TEXT_LIMIT = 16 << 20  # bytes of a text that people write: prompts, recipes, states
JSON_LIMIT = 2 << 30  # bytes of a JSON file; the largest public annotations have 0.5 GiB
_NAME_LIMIT = 255  # bytes of one name, on every common file system
_DAY = 86_400.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class FileError(ValueError):
    """A file that is missing, damaged, of another kind, too large, unsafe to read, or in the way of a new one."""


class DiskError(OSError):
    """A disk that is full or a folder that may not be written to; the message names the folder."""


# ---------------------------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends well and is removed when it does not.

    The file is on the disk before it gets its name, so that a crash leaves the old file or the new one. What processes
    left behind that died while they wrote `path` is removed.

    force       replace a file that is there

    Raises
        FileError: `path` is there and `force` is not set, or is no regular file, or its folder is not there.
        DiskError: the disk is full, or the folder may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(f"{path} is a folder")
    if path.exists():
        if not path.is_file():
            raise FileError(f"{path} is {_kind(path.stat().st_mode)}, which no file can take the place of")
        if not force:
            raise FileError(f"{path} is there already; it is replaced only when asked to (force)")
    if not path.parent.is_dir():
        raise FileError(f"{path.parent} is no folder")
    with disk_errors(path.parent):
        _sweep(path)
        part = path.with_name(f"{_prefix(path)}{os.getpid()}-{os.urandom(4).hex()}.part")
        try:
            handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            mode = stat.S_IMODE(os.fstat(handle).st_mode)  # what the user's mask leaves of it
            os.close(handle)
            yield part
            part.chmod(mode)  # a library may have made the file anew, for its owner alone
            finish(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False) -> None:
    """Write a text in UTF-8, whole or not at all. Raises what `writing` raises."""
    with writing(path, force=force) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def finish(unfinished: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Give a whole file, or a folder of whole files, its name, once it is on the disk.

    For writers whose unfinished file has a lasting name, to go on after a crash; others use `writing`.
    Raises DiskError.
    """
    unfinished, path = Path(unfinished), Path(path)
    with disk_errors(path.parent):
        inner = [entry for entry in unfinished.rglob("*") if entry.is_file()] if unfinished.is_dir() else [unfinished]
        for file in inner:
            _sync(file)
        os.replace(unfinished, path)
        if os.name == "posix":  # Windows opens no folder
            _sync(path.parent)


@contextmanager
def disk_errors(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a system's error about a full disk or a closed folder into a DiskError that names `folder`."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if error.filename is not None and not _below(error.filename, folder):
            raise  # of another place
        if error.errno in _FULL:
            raise DiskError(f"the disk of {folder} is full: {size_text(_free(folder))} are free") from error
        if error.errno in _CLOSED:
            raise DiskError(f"{folder} may not be written to: {(error.strerror or str(error)).lower()}") from error
        raise


def _below(name: Any, folder: str | os.PathLike[str]) -> bool:
    if not isinstance(name, str | bytes):
        return True
    place, top = Path(os.fsdecode(name)).absolute(), Path(folder).absolute()
    return place == top or top in place.parents or place in top.parents


def check_space(folder: str | os.PathLike[str], count: int) -> None:
    """Raise DiskError unless `count` bytes are free where `folder` is."""
    if count > _free(folder):
        raise DiskError(f"the disk of {folder} is full: {size_text(_free(folder))} are free, {size_text(count)} needed")


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make `folder` where it is missing and write one file to it, to notice now what would fail after hours.

    Raises
        FileError: a file stands where the folder should.
        DiskError: it may not be written to, or the disk is full.
    """
    folder = Path(folder)
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise FileError(f"{folder} cannot be a folder: a file stands in its place") from error
        trial = folder / f".{os.getpid()}-{os.urandom(4).hex()}.part"
        try:
            trial.write_bytes(bytes(4096))
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)


def size_text(count: int) -> str:
    """A number of bytes as people read it: "412 bytes", "1.5 MB"."""
    if count < 1000:
        return f"{count} byte{'' if count == 1 else 's'}"
    for unit, scale in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 1000 * scale or unit == "GB":
            return f"{count / scale:.1f} {unit}"
    raise AssertionError


def _sync(path: Path) -> None:
    # a file must be open for writing to be flushed on Windows; a folder cannot be
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such call
            raise
    finally:
        os.close(handle)


def _free(folder: str | os.PathLike[str]) -> int:
    import shutil

    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _prefix(path: Path) -> str:
    """How the temporary files of `path` begin: its name, then the machine, for folders that several share."""
    import socket

    machine = re.sub(r"[^A-Za-z0-9-]", "", socket.gethostname())[:40]
    return f".{path.name[:40]}.{machine}-"


def _sweep(path: Path) -> None:
    """Remove what dead processes of this machine left of `path`."""
    prefix = _prefix(path)
    with os.scandir(path.parent) as entries:
        left = [entry for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(".part")]
    for entry in left:
        pid = entry.name.removeprefix(prefix).partition("-")[0]
        with suppress(OSError):
            if pid.isdecimal() and not _alive(int(pid), entry.stat(follow_symlinks=False).st_mtime):
                Path(entry.path).unlink(missing_ok=True)


def _alive(pid: int, changed: float) -> bool:
    if os.name != "posix":  # no harmless way to ask
        return time.time() - changed < _DAY
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


# ---------------------------------------------------------------------------------------------------- reading


def regular_file(path: str | os.PathLike[str], *, limit: int | None = None) -> Path:
    """The path, with ``~`` written out, of a regular file or a link to one; a pipe would hang, a device never end.

    limit       bytes that it may have at most

    Raises
        FileError: no such file, a folder, a pipe, a device, or a file over the limit.
    """
    path = Path(path).expanduser()
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long, NUL in a name
        raise FileError(f"{str(path)!r} cannot be looked at: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path} is {_kind(found.st_mode)}; wanted a file")
    if limit is not None and found.st_size > limit:
        raise FileError(f"{path} has {size_text(found.st_size)}; at most {size_text(limit)} are read")
    return path


def read_text(path: str | os.PathLike[str], *, limit: int = TEXT_LIMIT) -> str:
    """The text of a file in UTF-8; a byte order mark is passed over.

    Raises
        FileError: no regular file, longer than `limit` bytes, or no UTF-8.
        OSError: it may not be read.
    """
    path = regular_file(path, limit=limit)
    return _decoded(path.read_bytes(), str(path))


def read_json(path: str | os.PathLike[str], *, limit: int = JSON_LIMIT) -> Any:
    """What a JSON file holds. Raises what `read_text` raises, and FileError for what is no JSON."""
    path = regular_file(path, limit=limit)
    return parse_json(path.read_bytes(), str(path), limit=limit)


def parse_json(text: str | bytes, where: str, *, limit: int = JSON_LIMIT) -> Any:
    """What a JSON text holds, of at most `limit` bytes and as deep as Python's own stack allows.

    where       what the text is called in messages: a file's name

    Raises
        FileError: too long, no UTF-8, no JSON, or nested too deeply.
    """
    if len(text) > limit:
        raise FileError(f"{where} has {size_text(len(text))}; at most {size_text(limit)} are read")
    if isinstance(text, bytes):
        text = _decoded(text, where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"{where} is no JSON: {error}") from error
    except RecursionError as error:
        raise FileError(
            f"{where} is nested too deeply; at most about {sys.getrecursionlimit()} levels are read"
        ) from error
    except ValueError as error:  # a number of more digits than Python turns into an int
        raise FileError(f"{where} is no JSON that can be read: {str(error).partition(';')[0]}") from error


def json_entry(tree: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """``tree[key]``, which must be there and of one of `kinds` (a bool is no number).

    Raises
        FileError: `tree` is no mapping, has no such key, or holds something else there; names the file and the key.
    """
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(tree, dict):
        raise FileError(f"{where}: wanted a mapping with the key {key!r}; got {_shown(tree)}")
    if key not in tree:
        raise FileError(
            f"{where}: the key {key!r} is missing; there are {', '.join(map(repr, list(tree)[:8])) or 'none'}"
        )
    value = tree[key]
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        wanted = " or ".join(_WORDS.get(kind, kind.__name__) for kind in allowed)
        raise FileError(f"{where}: {key!r} is {wanted}; got {_shown(value)}")
    return value


_WORDS: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _shown(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{where} is no text in UTF-8: {error.reason} at byte {error.start}") from error


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((word for test, word in kinds if test(mode)), "no regular file")


# ---------------------------------------------------------------------------------------------------- naming


def relative_name(text: Any, where: str) -> str:
    """A name that stays inside the folder it will be joined to, with ``/`` between its parts.

    where       what said so, for the message: "annotations.json: 'file_name'"

    Raises
        FileError: no text, empty, with a root, a drive, ``..``, a backslash, ``~`` in front, or a control character, or
            a part that no file system can hold.
    """
    if not isinstance(text, str):
        raise FileError(f"{where}: a file's name is a text; got {_shown(text)}")
    reason = None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        reason = "it holds a control character"
    elif any("\ud800" <= letter <= "\udfff" for letter in text):
        reason = "it is no text that can be encoded"
    elif "\\" in text:
        reason = "it holds a backslash; parts are divided by /"
    elif text.startswith("/"):
        reason = "it begins at the root"
    elif re.match(r"[A-Za-z]:", text):
        reason = "it names a drive"
    elif text.startswith("~"):
        reason = "it begins in somebody's home"
    elif ".." in text.split("/"):
        reason = "it leaves its folder"
    elif any(len(os.fsencode(part)) > _NAME_LIMIT for part in text.split("/")):
        reason = f"a part is longer than {_NAME_LIMIT} bytes"
    elif not PurePosixPath(text).parts:
        reason = "it is empty"
    if reason is not None:
        shown = text if len(text) <= 120 else text[:117] + "..."
        raise FileError(f"{where}: {shown!r} is no name inside a folder: {reason}")
    return str(PurePosixPath(text))


def inside(folder: str | os.PathLike[str], text: Any, where: str) -> Path:
    """The path of a name that somebody's file gives, below `folder`. Raises FileError, as `relative_name`."""
    return Path(folder) / relative_name(text, where)


def web_address(text: Any, where: str) -> str:
    """An address that may be asked: http or https, with a host.

    Raises
        FileError: anything else, such as ``file:``.
    """
    reason = None
    if not isinstance(text, str):
        raise FileError(f"{where}: an address is a text; got {_shown(text)}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise FileError(f"{where}: {text[:120]!r} is no address: {error}") from error
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in text):
        reason = "it holds a space or a control character"
    elif parts.scheme not in ("http", "https"):
        reason = f"only http and https are asked, not {parts.scheme or 'a name without either'}"
    elif not parts.hostname or port == 0:
        reason = "it names no host"
    if reason is not None:
        raise FileError(f"{where}: {text[:120]!r} is no address: {reason}")
    return text


def open_address(address: str, headers: Mapping[str, str] | None = None, *, timeout: float) -> Any:
    """Ask an address of the web: urllib's response, a context manager, whose body is as it was stored.

    No redirection to anything but http and https is followed, as urllib's own would to ftp.

    timeout     seconds in which some byte must come

    Raises
        FileError: no address of http or https.
        OSError: no answer, or a refusal (`urllib.error.HTTPError`).
    """
    import urllib.request  # here: it is slow to import, and few ask the web

    request = urllib.request.Request(
        web_address(address, "address"),
        headers={"User-Agent": "sam2core", "Accept-Encoding": "identity", **(headers or {})},
    )
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener.open(request, timeout=timeout)
