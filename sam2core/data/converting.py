"""From one format to another: what goes along, and what is said of what does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sam2core.data.footage import Footage
from sam2core.data.formats import FORMATS, DataSet, named
from sam2core.data.pictures import DataError, visible
from sam2core.data.writing import Written
from sam2core.storage import disk_errors, finish


def writable() -> list[str]:
    """The names of the formats that are written."""
    return [name for name, each in FORMATS.items() if each.write is not None]


def convert(data: DataSet, out: Path, to: str, progress: Callable[[int], None] | None = None) -> Written:
    """Write a data set in another format to a folder that is empty or not there; returns what was lost.

    Where that fails, nothing is left. progress: told how many images or videos are done. Raises
    DataError for a format that is not written, that holds videos where these are images, and for what it cannot hold.
    """
    target = named(to)
    if target.write is None:
        raise DataError(f"the format {to} is read and not written; {', '.join(writable())} are")
    if target.clips and any(item.still for item in data.footage):
        kinds = ", ".join(name for name in writable() if not FORMATS[name].clips)
        raise DataError(f"{to} holds videos, {data.root} holds images; formats of images are {kinds}")
    written = Written()
    with new_folder(out) as part:
        target.write(part, _told(data.footage, progress), written)
    return written


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `out` when all is written; where that fails, nothing is left.

    Raises DataError where `out` is there already and not empty, DiskError where it cannot be written.
    """
    if out.exists() and (not out.is_dir() or visible(out)):
        raise DataError(f"{out} is there already and not empty")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(out.parent):
            part.mkdir(parents=True)
            yield part
            if out.exists():
                out.rmdir()
            finish(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _told(footage: list[Footage], progress: Callable[[int], None] | None) -> Iterator[Footage]:
    for done, item in enumerate(footage, 1):
        yield item
        if progress is not None:
            progress(done)
