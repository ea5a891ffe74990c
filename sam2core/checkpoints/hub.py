"""A name of a file becomes a path: the caches, the Hugging Face hub, and a direct address as second source.

A partial or damaged file is never taken for a whole one: what comes is checked before it gets its name (`download`),
and a finished file is checked for its length whenever it is used.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from sam2core.checkpoints.download import Progress, download, in_one_line, warn_unverified
from sam2core.checkpoints.files import FileError, check_container, sha256
from sam2core.storage import inside, relative_name, web_address

__all__ = ["NotFoundError", "Source", "cache_folder", "download", "locate", "offline_by_environment"]

_TIMEOUT = 30.0
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


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

    def check(self, where: str) -> None:
        """Raise FileError, with `where` in front, for what is no plain name, address or number."""
        relative_name(self.file, f"{where}: file")
        if self.url is not None:
            web_address(self.url, f"{where}: url")
        if self.repo is not None and not (_REPO.fullmatch(self.repo) and ".." not in self.repo):
            raise FileError(f"{where}: repo: a hub repository is organisation/name; got {self.repo[:120]!r}")
        if self.revision is not None:
            relative_name(self.revision, f"{where}: revision")
        if self.size is not None and self.size <= 0:
            raise FileError(f"{where}: size: a number of bytes; got {self.size}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise FileError(f"{where}: sha256: 64 hexadecimal digits; got {self.sha256[:80]!r}")


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
    source.check(source.file if isinstance(source.file, str) else "weights")
    folder = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder()
    target = inside(folder, source.file, "weights")
    tried: list[tuple[str, str]] = []
    direct = "direct" in sources and source.url is not None

    if "hub" in sources and source.repo is not None:
        path, damaged = _hub_cached(source, cache_dir, tried)
        if path is not None:
            return path
    else:
        damaged = False
    if direct and (path := _direct_cached(source, target, tried)) is not None:
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
                return download(source.url, target, size=source.size, sha256=source.sha256, progress=progress)
            except (FileError, OSError) as error:
                tried.append((source.url, in_one_line(error)))
    if not tried:
        tried.append(("nowhere", f"no {' or '.join(sources)} source is declared for this file"))
    raise NotFoundError(source.file, tried, ways)


def _direct_cached(source: Source, path: Path, tried: list[tuple[str, str]]) -> Path | None:
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
    from huggingface_hub import constants

    assert source.repo is not None
    folder = Path(cache_dir or constants.HF_HUB_CACHE)
    place = folder / ("models--" + source.repo.replace("/", "--"))
    found = None
    if place.is_dir():  # the function comes with all that downloads, half of what listing the models would import
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.repo, source.file, cache_dir=cache_dir, revision=source.revision)
    if not isinstance(found, str):
        tried.append((str(place), f"{source.file} is not in this cache"))
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
        tried.append((place, in_one_line(error)))
        return None
    if (wrong := _wrong(path, source)) is not None:
        # The cache would hand it out again as if it were right.
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        tried.append((place, wrong + "; removed from the cache"))
        return None
    if source.sha256 is None:
        warn_unverified(source.file, place)
    return path


def _wrong(path: Path, source: Source) -> str | None:
    """Why a file that was just fetched is not the wanted one, or None."""
    if (wrong := _wrong_size(path, source)) is not None:
        return wrong
    if source.sha256 is not None and (found := sha256(path)) != source.sha256.lower():
        return f"the checksum is {found}, wanted {source.sha256}: damaged or another file"
    try:
        check_container(path, name=source.file)
    except FileError as error:
        return str(error).splitlines()[0]
    return None


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
        return in_one_line(error)
    return None


def _wrong_size(path: Path, source: Source) -> str | None:
    if source.size is None:
        return None
    have = path.stat().st_size
    return None if have == source.size else f"holds {have} bytes, wanted {source.size}: not whole, or another file"
