"""One rule for the folders that results are written to, in every verb.

* What is there of another image or another run is not replaced, unless --force says so; the error says how.
* What is there of the same image is replaced as a whole: nothing older stays beside what is new.
* What this program did not write is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2core.checkpoints.files import sha256
from sam2core.older import renamed
from sam2core.storage import FileError, check_writable, read_json

REPLACE = "--force replaces it, -o OTHER keeps it"
"""What can be done about results that are in the way."""
KEEP = "-o OTHER keeps it"
"""What can be done about files of somebody else that are in the way."""


class TakenError(ValueError):
    """Something is in a folder that would have to be replaced, and nobody said that it may be."""


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(place: Path) -> None:
    """Raise FileError for what is an address, such as ``s3://bucket/photos``, and no place on this machine."""
    if _ADDRESS.match(place.as_posix()) and not place.exists():
        scheme, _, rest = place.as_posix().partition(":/")
        raise FileError(f"{scheme}://{rest} is an address: jobs read and write folders; mount it, or copy it here")


def try_folder(folder: Path) -> None:
    """Notice now what would fail after hours: write a file to the folder, and leave it as it was.

    Raises what `check_writable` raises: FileError when a file stands in its place, DiskError when it may not be
    written to or its disk is full; and FileError for an address, which would become a folder of that name.
    """
    check_local(folder)
    missing = []
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        missing.append(place)
        place = place.parent
    try:
        check_writable(folder)
    finally:
        for made in missing:
            if made.is_dir():
                made.rmdir()


# ------------------------------------------------------------------------------------------------- runs over a video

PLACES = {
    "overlay": "overlay.mp4",
    "palette": "palette",
    "masks": "masks",
    "rle": "masks.json",
    "cutouts": "cutouts",
}
"""Each kind of output -> where it lies in the folder of a run."""
KINDS = tuple(PLACES)
_FILM = ("palette/*.png", "overlay.mp4", "overlay.mp4.part")
_LINES = (*_FILM, "masks.jsonl", "masks.jsonl.part")
WRITTEN = {
    "run.json": (
        *_FILM,
        "masks/*/*.png",
        "cutouts/*/*.png",
        "unfinished/*",
        "masks.json",
        "masks.json.part",
        "run.json",
    ),
    "masks.jsonl": _LINES,
    "masks.jsonl.part": _LINES,
}
"""The record of a run -> patterns of all that such a run writes; the last two are of earlier versions."""


def check_free(folder: Path, kinds: Iterable[str]) -> None:
    """Raise TakenError when a folder holds a run, or what these kinds of output would replace."""
    for name in (*WRITTEN, *(PLACES[kind] for kind in kinds if kind in PLACES)):
        if (folder / name).exists():
            raise TakenError(f"{folder / name} is there already: {REPLACE}")


def clear(folder: Path) -> None:
    """Delete what earlier runs wrote, and nothing else."""
    for record, patterns in WRITTEN.items():
        if (folder / record).exists():
            for path in [path for pattern in patterns for path in folder.glob(pattern)]:
                path.unlink()


def earlier_run(folder: Path, kinds: Iterable[str], *, resume: bool, force: bool) -> dict[str, Any] | None:
    """The run.json of the run to go on with; None to begin one. Raises ValueError when folder and options do not fit.

    kinds   what will be written, of `KINDS`
    """
    path = folder / "run.json"
    if not path.exists():
        if resume:
            raise ValueError(f"{folder} holds no run to resume")
        if not force:
            check_free(folder, kinds)
        return None
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        status, done, live, _, _ = (earlier[key] for key in ("status", "frames", "live", "prompts", "settings"))
    except (ValueError, KeyError, TypeError) as error:
        raise TakenError(f"{path} is not one of this program's: {error!r}; {KEEP}") from error
    if force:
        return None
    if not resume and status == "complete":
        raise TakenError(f"{folder} holds a finished run: {REPLACE}")
    if not resume:
        raise TakenError(f"{folder} holds a run stopped after {done} frames: --resume goes on, {REPLACE}")
    if live:
        raise TakenError(f"{folder} holds a live run, which cannot be resumed: {REPLACE}")
    return {**earlier, "settings": renamed(earlier["settings"])}


def compare(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise ValueError when a run would go on in another way than it began."""
    for key, value in mine.items():
        if value != theirs.get(key):
            raise ValueError(
                f"--resume goes on with the same command: {key} was {theirs.get(key)!r} and is now {value!r}"
            )


# ------------------------------------------------------------------------------------------------ results of an image

AUTOMASK = "sam2core.automask.1"
SEGMENT = "sam2core.segment.1"
"""What the first key of a document says."""
DRAWN = (".automask.overlay.png", ".automask.ids.png")
"""What an image's name is followed by in the names of the images that automatic masks are drawn into."""
DOCUMENT = ".automask.json"
EARLIER = (".overlay.png", ".ids.png")
"""What earlier versions drew beside NAME.json."""


@dataclass(frozen=True)
class Origin:
    """The image that results are of: its path, None where it has none, and the checksum of its bytes."""

    path: str | None
    sha256: str

    @classmethod
    def of(cls, source: str | Path | bytes) -> Origin:
        """Of a file, or of what was piped in."""
        if isinstance(source, bytes):
            return cls(None, hashlib.sha256(source).hexdigest())
        return cls(str(source), sha256(source))

    def owns(self, image: Mapping[str, Any]) -> bool:
        """Whether a document's ``image`` is this image: by content, or edited in its place."""
        if image.get("sha256") == self.sha256:
            return True
        theirs = image.get("path")
        return self.path is not None and isinstance(theirs, str) and Path(theirs).resolve() == Path(self.path).resolve()


def began_as(path: Path, format: str) -> bool:
    """Whether a file is a document whose first key says that it is of this format."""
    begin = json.dumps({"format": format})[:-1].encode()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(begin)) == begin


def held(path: Path, origin: Origin, *, force: bool) -> dict[str, Any] | None:
    """The document of ours that lies at `path`, when it may be replaced: of the same image, or any when forced.

    None when there is none, or none that is whole. Raises TakenError for one of another image.
    """
    if not path.exists():
        return None
    try:
        document = read_json(path)
    except FileError:
        return None
    image = document.get("image") if isinstance(document, dict) else None
    if not isinstance(image, dict):
        return None
    if force or origin.owns(image):
        return document
    raise TakenError(f"{path} holds the masks of {image.get('path')}: {REPLACE}")


def check_own(paths: Iterable[Path], ours: Iterable[Path], verb: str) -> None:
    """Raise TakenError when a file that is to be written is there and none of `ours`."""
    known = set(ours)
    for path in paths:
        if path.exists() and path not in known:
            raise TakenError(f"{path} is there, and {verb} did not write it: {KEEP}")
