"""A name of a file becomes a path: the caches, the Hugging Face hub, and a direct address as second source.

A partial or damaged file is never taken for a whole one: downloads go to a `.part` file beside the target, are checked
for length and SHA-256, and renamed; a finished file is checked for its length whenever it is used. One process
downloads, others wait for it.
"""

from __future__ import annotations

import http.client
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2core.checkpoints.files import FileError, sha256

__all__ = ["NotFoundError", "Source", "cache_folder", "download", "locate", "offline_by_environment"]

Progress = Callable[[int, int], None]
_TIMEOUT = 30.0
_BLOCK = 1 << 18
_ATTEMPTS = 3


class NotFoundError(FileError):
    """A file that nowhere could be had.

    file        its name
    tried       (place, reason) for every place looked at, in order
    """

    def __init__(self, file: str, tried: list[tuple[str, str]], ways: tuple[str, ...] = ()) -> None:
        self.file = file
        self.tried = tuple(tried)
        lines = [f"{file} could not be had. Looked at:"]
        lines += [f"  {place}\n      {reason}" for place, reason in tried]
        if ways:
            lines += ["To get on:"] + [f"  {number}. {way}" for number, way in enumerate(ways, start=1)]
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Source:
    """Where a file may be had and how to tell that it is the right one.

    file        its name
    repo        "organisation/name" on the Hugging Face hub, or None
    revision    branch, tag or commit there; None: the main branch
    url         a direct address, or None
    size        length in bytes, or None when unknown
    sha256      checksum in hexadecimal, or None when unknown
    """

    file: str
    repo: str | None = None
    revision: str | None = None
    url: str | None = None
    size: int | None = None
    sha256: str | None = None


def cache_folder() -> Path:
    """Where direct downloads are kept: SAM2CORE_CACHE, or `sam2core/checkpoints` in the user's cache folder."""
    if chosen := os.environ.get("SAM2CORE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "sam2core" / "checkpoints"


def offline_by_environment() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) asks to stay off the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def locate(
    source: Source,
    *,
    cache_dir: str | Path | None = None,
    offline: bool | None = None,
    sources: tuple[str, ...] = ("hub", "direct"),
    endpoint: str | None = None,
    progress: Progress | None = None,
    ways: tuple[str, ...] = (),
) -> Path:
    """The path of a whole copy of the file: from the caches if it is there, downloaded otherwise.

    cache_dir   one folder for both caches; None: the hub's own cache, and `cache_folder()` for direct downloads
    offline     True: look at the caches only; None: as HF_HUB_OFFLINE says
    sources     which to try, in order: "hub", "direct"
    endpoint    address of the hub; None: as HF_ENDPOINT says
    progress    called with bytes done and bytes in all during a direct download (the hub draws its own bar)
    ways        what the error names as ways to get on

    Raises
        NotFoundError: every place was looked at; the message says each with its reason.
    """
    unknown = set(sources) - {"hub", "direct"}
    if unknown or not sources:
        raise FileError(f"no source is called {', '.join(sorted(unknown)) or '(none given)'}; known: hub, direct")
    if offline is None:
        offline = offline_by_environment()
    folder = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder()
    tried: list[tuple[str, str]] = []
    direct = "direct" in sources and source.url is not None

    if "hub" in sources and source.repo is not None:
        path, damaged = _hub_cached(source, cache_dir, tried)
        if path is not None:
            return path
    else:
        damaged = False
    if direct and (path := _direct_cached(source, folder, tried)) is not None:
        return path

    for name in sources:
        if name == "hub" and source.repo is not None:
            if offline:
                tried.append((_hub_address(source, endpoint), "not asked: offline"))
                continue
            path = _from_hub(source, cache_dir, endpoint, damaged, tried)
            if path is not None:
                return path
        elif name == "direct" and direct:
            assert source.url is not None
            if offline:
                tried.append((source.url, "not asked: offline"))
                continue
            try:
                return download(
                    source.url, folder / source.file, size=source.size, sha256=source.sha256, progress=progress
                )
            except (FileError, OSError) as error:
                tried.append((source.url, _reason(error)))
    if not tried:
        tried.append(("nowhere", f"no {' or '.join(sources)} source is declared for this file"))
    raise NotFoundError(source.file, tried, ways)


def download(
    url: str,
    target: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download `url` to `target`, going on where an earlier attempt stopped.

    The bytes go to ``<target>.part``; only when their length and checksum are right is that renamed to `target`. A
    part that turns out wrong is removed. A `target` that is there with the right length is returned as it is.

    Raises
        FileError: what arrived is not what was wanted.
        OSError: the address could not be read (`urllib.error.URLError`, a time-out), or the disk not written.
    """
    from huggingface_hub.utils import WeakFileLock

    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(target.parent / f".{target.name}.lock"):
        # Another process may have finished it while this one waited.
        if target.exists() and size is not None and target.stat().st_size == size:
            return target
        part = target.with_name(target.name + ".part")
        for attempt in range(_ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            try:
                whole = _fetch(url, part, size, progress)
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                # A connection that broke is taken up again as long as it brings something.
                gained = part.exists() and part.stat().st_size > before
                if attempt + 1 == _ATTEMPTS or not gained:
                    raise OSError(
                        f"the connection broke after {part.stat().st_size if part.exists() else 0} bytes: "
                        f"{_reason(error)}"
                    ) from error
                continue
            if whole:
                break
        have = part.stat().st_size
        if not whole:
            raise FileError(f"the connection ended early {_ATTEMPTS} times; {have} bytes are kept for the next attempt")
        if size is not None and have != size:
            part.unlink()
            raise FileError(f"{have} bytes arrived, wanted {size}: another file, or an error page; removed")
        if sha256 is not None and (found := _digest(part)) != sha256:
            part.unlink()
            raise FileError(f"the checksum is {found}, wanted {sha256}: damaged or another file; removed")
        os.replace(part, target)
    return target


def _fetch(url: str, part: Path, size: int | None, progress: Progress | None) -> bool:
    """Ask for what is missing of `part` and append it. Whether all the server promised is now there."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have > size:
        part.unlink()
        have = 0
    if size is not None and have == size:
        return True
    tag = part.with_name(part.name + ".etag")
    known = tag.read_text() if have and tag.exists() else ""
    headers = {"User-Agent": "sam2core", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known:
            headers["If-Range"] = known  # what changed meanwhile comes whole instead of being glued on
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()  # longer than what lies there now: start again
            tag.unlink(missing_ok=True)
            return _fetch(url, part, size, progress)
        raise
    with response:
        if have and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            start = _range_start(response.headers.get("Content-Range", ""))
            if start != have:
                raise FileError(f"asked for bytes from {have} on, the server sent them from {start} on")
            mode = "ab"
        else:
            have, mode = 0, "wb"  # the server knows no ranges, or the file changed
            etag = response.headers.get("ETag", "")
            if etag and not etag.startswith("W/"):
                tag.write_text(etag)
            else:
                tag.unlink(missing_ok=True)
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length is not None else size
        total = size or expected or 0
        with part.open(mode) as file:
            if progress is not None:
                progress(have, total)
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
    whole = have == expected if expected is not None else True
    if whole:
        tag.unlink(missing_ok=True)
    return whole


def _range_start(text: str) -> int:
    with suppress(ValueError, IndexError):
        return int(text.split()[1].split("-")[0])
    return -1


def _digest(path: Path) -> str:
    return sha256(path)


def _direct_cached(source: Source, folder: Path, tried: list[tuple[str, str]]) -> Path | None:
    path = folder / source.file
    if not path.is_file():
        part = path.with_name(path.name + ".part")
        begun = f"not there, but {part.stat().st_size} bytes of it are" if part.is_file() else "not there"
        tried.append((str(path), begun))
        return None
    if (wrong := _wrong_size(path, source)) is not None:
        tried.append((str(path), wrong))
        return None
    return path


def _hub_cached(source: Source, cache_dir: str | Path | None, tried: list[tuple[str, str]]) -> tuple[Path | None, bool]:
    """The copy in the hub's cache, if it is whole; and whether there is one that is not."""
    from huggingface_hub import constants, try_to_load_from_cache

    assert source.repo is not None
    folder = Path(cache_dir or constants.HF_HUB_CACHE)
    place = f"{folder / ('models--' + source.repo.replace('/', '--'))}"
    found = try_to_load_from_cache(source.repo, source.file, cache_dir=cache_dir, revision=source.revision)
    if not isinstance(found, str):
        tried.append((place, f"{source.file} is not in this cache"))
        return None, False
    path = Path(found)
    if (wrong := _wrong_size(path, source)) is not None:
        tried.append((str(path), wrong))
        return None, True
    return path, False


def _from_hub(
    source: Source, cache_dir: str | Path | None, endpoint: str | None, damaged: bool, tried: list[tuple[str, str]]
) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import HfHubHTTPError

    assert source.repo is not None
    place = _hub_address(source, endpoint)
    if (reason := _unreachable(place)) is not None:
        tried.append((place, reason))
        return None
    try:
        path = Path(
            hf_hub_download(
                source.repo,
                source.file,
                revision=source.revision,
                cache_dir=cache_dir,
                endpoint=endpoint,
                force_download=damaged,
                library_name="sam2core",
            )
        )
    # The bases of its own error are those of the HTTP library it uses, whichever that is; its other errors share them.
    except (*HfHubHTTPError.__bases__, OSError, ValueError, RuntimeError) as error:  # type: ignore[misc]
        tried.append((place, _reason(error)))
        return None
    wrong = _wrong_size(path, source)
    if wrong is None and source.sha256 is not None:
        found = sha256(path)
        if found != source.sha256:
            wrong = f"the checksum is {found}, wanted {source.sha256}: damaged or another file"
    if wrong is not None:
        # The cache would hand it out again as if it were right.
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        tried.append((place, wrong + "; removed from the cache"))
        return None
    return path


def _hub_address(source: Source, endpoint: str | None) -> str:
    from huggingface_hub import constants

    address = (endpoint or constants.ENDPOINT).rstrip("/")
    return f"{address}/{source.repo}/resolve/{source.revision or 'main'}/{source.file}"


def _unreachable(url: str) -> str | None:
    """Why the host of `url` cannot be reached, or None. The hub's client would try for half a minute to find out."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return None
    try:
        socket.create_connection((host, parts.port or {"http": 80}.get(parts.scheme, 443)), timeout=_TIMEOUT).close()
    except OSError as error:
        return _reason(error)
    return None


def _wrong_size(path: Path, source: Source) -> str | None:
    if source.size is None:
        return None
    have = path.stat().st_size
    return None if have == source.size else f"holds {have} bytes, wanted {source.size}: not whole, or another file"


def _reason(error: BaseException) -> str:
    """An exception in one line, with the one below it where that says more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    cause: Any = error.__cause__
    while cause is not None and not isinstance(error, FileError):
        below = [line.strip() for line in str(cause).splitlines() if line.strip()]
        if below and below[0] not in text:
            text += f" ({type(cause).__name__}: {below[0]})"
        cause = cause.__cause__
    return text
