"""Labels for other tools, of what a run has found: each a folder of its own, made anew and whole when the run is over.

A writer is a part of the kind ``writer``; those built in write what `sam2core.data` writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.jobs.folder import KEEP, REPLACE, TakenError
from sam2core.storage import FileError, disk_errors, finish, read_json, relative_name, write_text

if TYPE_CHECKING:
    from sam2core.data.footage import Footage
    from sam2core.protocols import Writer

RECORD = "labels.json"
"""What says, in the folder of a run, which labels were written there and of what."""
FORMAT = "sam2core.labels.1"


class FormatWriter:
    """Writes a format of labelled data: `write(root, footage, written)` of ``sam2core.data.MODULE``."""

    def __init__(self, module: str, *, function: str = "write", holds: Sequence[str] = ("images", "videos")) -> None:
        self.module, self.function, self.holds = module, function, tuple(holds)

    def write(self, folder: Path, footage: Sequence[Footage]) -> list[str]:
        """Fill an empty folder; sentences about what the format does not hold."""
        import importlib

        from sam2core.data.writing import Written

        written = Written()
        write: Callable[..., None] = getattr(importlib.import_module(f"sam2core.data.{self.module}"), self.function)
        write(folder, footage, written)
        return written.sentences


def _format(module: str, **more: Any) -> Callable[[], FormatWriter]:
    def make() -> FormatWriter:
        return FormatWriter(module, **more)

    return make


coco = _format("coco")
yolo = _format("yolo")
labelstudio = _format("labelstudio")
geojson = _format("geojson")
shards = _format("coco", function="write_shards")
cvat = _format("cvat", holds=("videos",))
davis = _format("davis", holds=("videos",))
mots = _format("mots", holds=("videos",))
nifti = _format("nifti", holds=("videos",))
tiff = _format("stacks", holds=("videos",))


def forget(folder: Path) -> None:
    """Delete the labels that earlier runs wrote to a folder, and nothing else."""
    for kind in recorded(folder):
        shutil.rmtree(folder / relative_name(kind, RECORD), ignore_errors=True)
    if recorded(folder):
        (folder / RECORD).unlink()


def recorded(folder: Path) -> dict[str, list[str]]:
    """The kinds of labels that are recorded in a folder, each with the names of what they are of."""
    try:
        told = read_json(folder / RECORD)
    except (FileError, OSError):
        return {}
    known = isinstance(told, dict) and told.get("format") == FORMAT and isinstance(told.get("kinds"), dict)
    return told["kinds"] if known else {}


class Labels:
    """The labels that a run is to write to its folder.

    folder   of the run
    writers  kind -> what writes it
    names    of the images or videos they will be of
    force    replace those of others

    Raises ValueError for a kind that cannot hold what the run finds, and TakenError for a folder of a kind that is
    there already and of other images, or that this program did not write.
    """

    def __init__(
        self, folder: Path, writers: Mapping[str, Writer], names: Iterable[str], holding: str, *, force: bool = False
    ) -> None:
        self.folder, self.writers, self.names = folder, writers, sorted(names)
        for kind, writer in writers.items():
            if holding not in writer.holds:
                raise ValueError(f"--write {kind} holds {' and '.join(writer.holds)}, no {holding}")
        self.before = recorded(folder)
        for kind in writers:
            place = folder / kind
            if not place.exists():
                continue
            if kind not in self.before:
                raise TakenError(f"{place} is there, and this program did not write it: {KEEP}")
            if not force and (others := set(self.before[kind]) - set(self.names)):
                raise TakenError(f"{place} holds the labels of {min(others)}, too: {REPLACE}")

    def write(self, footage: Sequence[Footage]) -> list[str]:
        """Write every kind; sentences about what each does not hold. A folder gets its name when it is whole."""
        told = []
        for kind, writer in self.writers.items():
            place, part = self.folder / kind, self.folder / f"{kind}.part"
            with disk_errors(self.folder):
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                told += [f"{kind}: {sentence}" for sentence in writer.write(part, footage)]
                self.before[kind] = self.names
                record = {"format": FORMAT, "kinds": self.before}
                write_text(self.folder / RECORD, json.dumps(record) + "\n", force=True)
                shutil.rmtree(place, ignore_errors=True)
                finish(part, place)
        return told
