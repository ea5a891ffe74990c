"""The entry points of the installed distributions, looked up once for an environment and remembered in a file.

Reading the metadata of a hundred distributions takes longer than everything else that listing the models does. What was
found stands in the user's cache folder beside a stamp of that metadata: names, sizes and times of the files. Another
stamp, another environment, a file that is gone, damaged or not ours: the metadata is read again, and nothing is lost.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from sam2core.hooks import PROJECT

logger = logging.getLogger(__name__)

FORM = 1  # of the file; another form is another stamp


@dataclass(frozen=True)
class Point:
    """An entry point: what a distribution offers under `name`, "module" or "module:object".

    requires   the lines Requires-Dist of the distribution; it, its version and these are empty where nobody said them
    """

    name: str
    value: str
    distribution: str = ""
    version: str = ""
    requires: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the module and return what the value names of it. Raises whatever the import does."""
        module, _, path = self.value.partition("[")[0].partition(":")  # extras say nothing about where it is
        found: Any = importlib.import_module(module.strip())
        for attribute in filter(None, path.strip().split(".")):
            found = getattr(found, attribute)
        return found


def points() -> list[Point]:
    """The entry points in our group of what is installed, as the metadata says it now."""
    stamp = _stamp(sys.path)
    if stamp is None:
        return scan()
    place = _place(stamp)
    known = _remembered(place, stamp)
    if known is None:
        known = scan()
        _remember(place, stamp, known)
    return known


def scan(path: Iterable[str | os.PathLike[str]] | None = None) -> list[Point]:
    """The entry points, read from the metadata of every distribution on `path` (None: on sys.path)."""
    import importlib.metadata  # with its parsers of mail, a fifth of what the command line imports

    if path is None:
        found: Iterable[importlib.metadata.EntryPoint] = importlib.metadata.entry_points(group=PROJECT)
    else:
        every = importlib.metadata.distributions(path=[os.fspath(folder) for folder in path])
        found = (point for one in every for point in one.entry_points if point.group == PROJECT)
    return [_point(point) for point in found]


def _point(point: Any) -> Point:
    if point.dist is None:
        return Point(point.name, point.value)
    name, version = point.dist.name or "", point.dist.version or ""  # a folder of metadata may lack the file METADATA
    return Point(point.name, point.value, name, version, tuple(point.dist.requires or ()))


# ---------------------------------------------------------------------------------------------------- remembering


def _stamp(path: Iterable[str]) -> str | None:
    """What tells one state of the metadata on `path` from another; None where some may be in no folder."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return None
    lines = [f"{FORM} {sys.version}"]
    for folder in path:
        if not isinstance(folder, str):
            continue
        state = _state(folder or ".")
        if state is not None and not Path(folder or ".").is_dir():
            lines.append(f"{folder} {state}")  # an archive
        elif state is not None and (inside := sorted(_metadata(folder or "."))):
            lines += [str(Path(folder).resolve()), *inside]
    return "\n".join(lines)


def _metadata(folder: str) -> Iterator[str]:
    """A line for each folder or file of metadata: its name, its state, and that of the entry points in it.

    An installer makes the folder anew whatever it changes, so that the other files in it need no look.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(("-info", ".egg")):
                inside = "EGG-INFO/entry_points.txt" if entry.name.endswith(".egg") else "entry_points.txt"
                yield f"{entry.name} {_state(entry.path)} {_state(f'{entry.path}/{inside}')}"


def _state(place: str) -> str | None:
    try:
        found = os.stat(place)
    except (OSError, ValueError):
        return None
    return f"{found.st_mtime_ns}.{found.st_size}.{found.st_ino}"


def _place(stamp: str) -> Path:
    """Where the points of an environment are remembered: a file for each list of folders with metadata."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folders = [line for line in stamp.splitlines() if os.path.isabs(line)]
    return Path(base) / "sam2core" / "plugins" / f"{zlib.crc32(os.linesep.join(folders).encode()):08x}.json"


def _remembered(place: Path, stamp: str) -> list[Point] | None:
    """The points that stand in the file, if it is of this stamp and nobody else can have written it."""
    try:
        state = os.stat(place)
        if os.name == "posix" and (state.st_uid != os.geteuid() or state.st_mode & 0o022):
            return None
        tree = json.loads(place.read_text(encoding="utf-8"))
        if tree["stamp"] != stamp:
            return None
        return [Point(**{**point, "requires": tuple(point["requires"])}) for point in tree["points"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.debug("%s is not read: %s", place, error)
        return None


def _remember(place: Path, stamp: str, known: list[Point]) -> None:
    """Write the file for the next process; where that cannot be, the next one reads the metadata again."""
    from sam2core.storage import FileError, write_text

    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(place, json.dumps({"stamp": stamp, "points": [asdict(point) for point in known]}), force=True)
        if os.name == "posix":
            place.chmod(0o600)
    except (OSError, FileError) as error:
        logger.debug("%s is not written: %s", place, error)
