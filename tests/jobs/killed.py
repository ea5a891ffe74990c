"""A run over images that is made to be killed: ``killed.py OUT PICTURE...`` with two workers, without torch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sam2core.jobs.engines import LocalEngine
from sam2core.jobs.folder import SEGMENT, Origin
from sam2core.jobs.interrupt import InterruptGuard
from sam2core.jobs.pictures import Done, Made, Picture, attempt, document, is_same, run_pictures

SETTINGS = {"model": 1}


def children(parent: int) -> list[int]:
    """The workers of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            owner = int(stat.read_text().rpartition(")")[2].split()[1])
            line = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if owner == parent and "spawn_main" in line:
            found.append(int(stat.parent.name))
    return found


@dataclass(frozen=True)
class Work:
    out: Path
    seconds: float
    deadly: str = ""
    """The name of an image over which every worker dies."""

    def __call__(self, number):
        def do(picture: Picture, made: Made) -> None:
            path = self.out / f"{picture.name}.json"
            origin = Origin.of(picture.path)
            if path.exists() and is_same(json.loads(path.read_text()), origin, SETTINGS):
                made.notes.append("there already")
                return
            if picture.name == self.deadly:
                os._exit(9)
            time.sleep(self.seconds)
            facts = {"format": SEGMENT, "image": {"sha256": origin.sha256}, "settings": SETTINGS}
            with document(path, json.dumps(facts)):
                (self.out / f"{picture.name}.mask").write_bytes(hashlib.sha256(picture.path.read_bytes()).digest() * 99)

        return lambda picture: attempt(picture, do)


def go(out: Path, files: list[Path], workers: int, seconds: float = 0.0, deadly: str = "") -> Done:
    out.mkdir(exist_ok=True)
    pictures = [Picture(file, file.stem) for file in files]
    with InterruptGuard(lambda text: None) as guard:
        engine = LocalEngine(workers, attempts=2 if deadly else 5)
        return run_pictures(engine, Work(out, seconds, deadly), pictures, guard, lambda made, count: None)


if __name__ == "__main__":
    go(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]], 2, 0.01)
