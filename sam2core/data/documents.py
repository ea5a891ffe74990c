"""JSON annotation files: kept for a while where a data set has many, and asked for by key with the file's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sam2core.data.pictures import DataError, read_json

HEAD = 65536
"""Characters of a file that say what it is."""


class Documents:
    """JSON files as they are asked for; the last few are kept, for a data set may have millions."""

    def __init__(self, most: int = 8):
        self.most = most
        self.held: dict[Path, Any] = {}

    def __call__(self, path: Path) -> Any:
        """What a file holds. Raises DataError that names it."""
        if path not in self.held:
            document = read_json(path)
            while len(self.held) >= self.most:
                del self.held[next(iter(self.held))]
            self.held[path] = document
        return self.held[path]

    def __reduce__(self) -> tuple[type[Documents], tuple[int]]:
        return Documents, (self.most,)  # a worker reads its own


def head(path: Path) -> str:
    """The beginning of a text file; empty where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(HEAD)
    except OSError:
        return ""


def mentions(text: str, *keys: str) -> bool:
    """Whether the beginning of a JSON file has all of these keys."""
    return all(re.search(rf'"{key}"\s*:', text) for key in keys)


def entries(tree: Any, key: str, origin: Path) -> list[dict[str, Any]]:
    """The list of mappings under a key. Raises DataError that names the file and the key for anything else."""
    if not isinstance(tree, dict) or key not in tree:
        raise DataError(f"{origin} has no {key!r}")
    found = tree[key]
    if not isinstance(found, list):
        raise DataError(f"{origin}: {key!r} is {_kind(found)}, not a list")
    for place, each in enumerate(found):
        if not isinstance(each, dict):
            raise DataError(f"{origin}: {key}[{place}] is {_kind(each)}, not a mapping")
    return found


def entry(tree: dict[str, Any], key: str, where: str) -> Any:
    """What a mapping holds under a key that must be there. Raises DataError that says where it is missing."""
    if tree.get(key) is None:
        raise DataError(f"{where} has no {key!r}")
    return tree[key]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), repr(value))


_KINDS = ((dict, "a mapping"), (list, "a list"), (str, "a text"))
