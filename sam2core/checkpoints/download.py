"""One file from one address: resumed, bounded, checked before it gets its name.

Why this is ours: `hf_hub_download` asks hubs alone, and pooch neither resumes nor bounds what a server sends.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2core.checkpoints.files import check_container
from sam2core.storage import (
    FileError,
    check_space,
    disk_errors,
    finish,
    open_address,
    parse_json,
    size_text,
    web_address,
)

__all__ = ["Progress", "download", "in_one_line", "warn_unverified"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
LIMIT = 16 << 30  # bytes of a file whose size nobody said
_TIMEOUT = 30.0  # seconds in which some byte must come
_PATIENCE = 60.0  # seconds over which the slowest speed is measured
_SLOWEST = 1000  # bytes a second
_BLOCK = 1 << 18
_ATTEMPTS = 3


def download(
    url: str,
    target: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download weights from `url` to `target`, going on where an earlier attempt stopped.

    The bytes go to ``<target>.part``; only when length, checksum and the file's own structure are right is that renamed
    to `target`. A part that turns out wrong is removed. A `target` that is there with the right length is returned as
    it is. One process downloads, others wait for it.

    size        bytes; None: as the server says, 16 GiB at most
    sha256      in hexadecimal; None: a warning says that nothing vouches for the content
    progress    called with bytes done and bytes in all (0 when unknown)

    Raises
        FileError: no address of the web, or what arrived is not what was wanted.
        OSError: the address could not be read (`urllib.error.URLError`, a time-out), or the disk is full.
    """
    from huggingface_hub.utils import WeakFileLock

    web_address(url, "url")
    target = Path(target)
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(target.parent / f".{target.name}.lock"):
        # Another process may have finished it while this one waited.
        if target.exists() and size is not None and target.stat().st_size == size:
            return target
        part = _Part(target, url, size, sha256)
        part.fetch(progress)
        part.check()
        finish(part.path, target)
        part.remove()
    if sha256 is None:
        warn_unverified(target.name, url)
    return target


def warn_unverified(name: str, place: str) -> None:
    """Say that a file came without a checksum to hold it against."""
    logger.warning("%s came from %s, and no sha256 is known for it: its content is unverified", name, place)


@dataclass(frozen=True)
class _Part:
    """What has come of a file so far, beside the place where it will be; a note says of which version it is."""

    target: Path
    url: str
    size: int | None
    sha256: str | None

    @property
    def path(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def note(self) -> Path:
        return self.target.with_name(self.target.name + ".part.etag")

    @property
    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def fetch(self, progress: Progress | None) -> None:
        """Ask until it is whole: a connection that broke is taken up again as long as it brings something."""
        for attempt in range(_ATTEMPTS):
            before = self.length
            try:
                if self._ask(progress):
                    return
            except FileError:
                self.remove()
                raise
            except urllib.error.URLError:  # no answer at all, or a refusal
                raise
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                if attempt + 1 == _ATTEMPTS or self.length <= before:
                    raise OSError(f"the connection broke after {self.length} bytes: {in_one_line(error)}") from error
        raise FileError(
            f"the connection ended early {_ATTEMPTS} times; {self.length} bytes are kept for the next attempt"
        )

    def check(self) -> None:
        """Raise FileError, and remove the part, unless it is the file that was wanted."""
        try:
            if self.size is not None and self.length != self.size:
                raise FileError(
                    f"{self.length} bytes arrived, wanted {self.size}: another file, or an error page; removed"
                )
            if self.sha256 is not None and (found := _digest(self.path)) != self.sha256.lower():
                raise FileError(f"the checksum is {found}, wanted {self.sha256}: damaged or another file; removed")
            check_container(self.path, name=self.target.name)
        except FileError:
            self.remove()
            raise

    def _ask(self, progress: Progress | None) -> bool:
        """Ask for what is missing and append it. Whether all the server promised is now there."""
        have, etag = self._resumable()
        if self.size is not None and have == self.size:
            return True
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if etag:
                headers["If-Range"] = etag  # what changed meanwhile comes whole instead of being glued on
        try:
            response = open_address(self.url, headers, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                self.remove()  # longer than what lies there now: start again
                return self._ask(progress)
            raise
        with response:
            if have and response.status == http.HTTPStatus.PARTIAL_CONTENT:
                start = _range_start(response.headers.get("Content-Range", ""))
                if start != have:
                    raise FileError(f"asked for bytes from {have} on, the server sent them from {start} on")
            else:
                self.remove()  # the server knows no ranges, or the file changed
                have = 0
            expected = self._announced(response, have)
            etag = response.headers.get("ETag", "")
            with disk_errors(self.path.parent):
                check_space(self.path.parent, (expected or have) - have)
                if not have:
                    kept = "" if etag.startswith("W/") else etag
                    self.note.write_text(json.dumps({"url": self.url, "etag": kept}), encoding="utf-8")
                have = self._append(response, have, expected, progress)
        return expected is None or have == expected

    def _append(self, response: Any, have: int, expected: int | None, progress: Progress | None) -> int:
        """Write what comes; returns the bytes that are there. One byte too many, and it is not the file."""
        most = expected if expected is not None else LIMIT
        with self.path.open("ab") as file:
            if progress is not None:
                progress(have, expected or 0)
            for block in _blocks(response):
                if have + len(block) > most:
                    raise FileError(f"more than the {most} bytes arrived that were wanted; removed")
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, expected or 0)
        return have

    def _resumable(self) -> tuple[int, str]:
        """The bytes that may be gone on with, and the version they are of. What nothing vouches for is removed."""
        have, known = self.length, {}
        with suppress(FileError, OSError):
            known = parse_json(self.note.read_bytes()[:10_000], self.note.name)
        known = known if isinstance(known, dict) else {}
        etag = known.get("etag") if known.get("url") == self.url else None
        too_long = self.size is not None and have > self.size
        if have and (too_long or not (etag or self.sha256)):
            self.remove()
            have = 0
        return have, etag if have and isinstance(etag, str) and etag.isprintable() else ""

    def _announced(self, response: Any, have: int) -> int | None:
        """The length that the whole file will have, by the server's words; None when it says none."""
        if response.headers.get_content_type() == "text/html":
            raise FileError("the server sent a page of HTML, not weights")
        said = response.headers.get("Content-Length")
        if said is None:
            return self.size
        if not (said.isascii() and said.isdecimal() and len(said) < 19):
            raise FileError(f"the server says that {said[:40]!r} bytes come, which is no length")
        whole = have + int(said)
        if self.size is not None and whole != self.size:
            raise FileError(f"the server announces {whole} bytes, wanted {self.size}: another file, or an error page")
        if whole > LIMIT:
            raise FileError(f"the server announces {size_text(whole)}; at most {size_text(LIMIT)} are taken")
        return whole


def _blocks(response: Any) -> Iterator[bytes]:
    """The body as it comes. Raises OSError when it comes too slowly to be waited for."""
    since, count = time.monotonic(), 0
    while block := response.read1(_BLOCK):
        yield block
        count += len(block)
        if (passed := time.monotonic() - since) > _PATIENCE:
            if count < _SLOWEST * passed:
                raise OSError(f"too slow to wait for: {size_text(count)} came in {passed:.0f} seconds")
            since, count = time.monotonic(), 0


def _range_start(text: str) -> int:
    with suppress(ValueError, IndexError):
        return int(text.split()[1].split("-")[0])
    return -1


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def in_one_line(error: BaseException) -> str:
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
