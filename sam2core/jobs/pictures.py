"""The same done to many images, on any engine: what became of each, and what could not be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from sam2core.jobs.inputs import RASTERS
from sam2core.older import renamed
from sam2core.storage import DiskError, finish

if TYPE_CHECKING:
    import numpy as np

    from sam2core.jobs.folder import Origin
    from sam2core.jobs.interrupt import InterruptGuard
    from sam2core.jobs.prompts import UserPrompt
    from sam2core.protocols import Engine


class Picture(NamedTuple):
    """An image's file, the name of its results, and what was pointed at in it."""

    path: Path
    name: str
    prompts: tuple[UserPrompt, ...] = ()


@dataclass
class Made:
    """What became of an image: its document and how many masks that holds, or why there is none."""

    path: str
    document: str = ""
    masks: int = 0
    error: str = ""
    notes: list[str] = field(default_factory=list)
    """Lines for people."""


@dataclass
class Done:
    """What became of the images, in the order they were given in."""

    pictures: list[Made] = field(default_factory=list)
    failed: list[Made] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def documents(self) -> list[Path]:
        return [Path(one.document) for one in self.pictures]

    def summary(self, what: str) -> dict[str, Any]:
        """The same for programs; `what` they are, images or videos."""
        count = len(self.pictures) + len(self.failed)
        return {
            what: [{"path": one.path, "document": one.document, "masks": one.masks} for one in self.pictures],
            "failed": [one.path for one in self.failed],
            "reasons": {one.path: one.error for one in self.failed},
            "seconds": round(self.seconds, 2),
            f"{what}_per_second": round(count / max(self.seconds, 1e-6), 3),
        }


Work = Callable[[Picture], Made]


def run_pictures(
    engine: Engine,
    prepare: Callable[[int], Callable[[Any], Made]],
    pictures: Sequence[Any],
    guard: InterruptGuard | None,
    progress: Callable[[Made, int], None],
) -> Done:
    """Do every image or video; `progress(made, done)` is told of each. One that cannot be read stops no other.

    `prepare` is what an engine takes; what it makes says of an image that it is done already. So whatever kills a run,
    the same run again goes on, and tries again what failed. An image that kills its workers is one that failed.
    Raises DiskError when results cannot be written, and Interrupted when the guard is asked to stop; without a guard, a
    request ends a video in its own way.
    """
    began = time.monotonic()
    made: dict[int, Made] = {}
    for index, result in engine.map(prepare, pictures):
        lost = isinstance(result, ChildProcessError)
        one = Made(str(pictures[index].path), error=str(result)) if lost else result
        made[index] = one
        progress(one, len(made))
        if guard is not None:
            guard.check()
    ordered = [made[index] for index in sorted(made)]
    return Done(
        [one for one in ordered if not one.error],
        [one for one in ordered if one.error],
        time.monotonic() - began,
    )


def attempt(picture: Any, do: Callable[[Any, Made], None]) -> Made:
    """Do an image; what is wrong with it becomes a part of the answer, a disk that is full stays an error."""
    made = Made(str(picture.path))
    try:
        do(picture, made)
    except DiskError:
        raise
    except (ValueError, OSError) as error:
        made.error = str(error) or type(error).__name__
    return made


def is_same(earlier: Mapping[str, Any], origin: Origin, settings: Mapping[str, Any]) -> bool:
    """Whether a document is of the same image and was made in the same way."""
    return earlier["image"].get("sha256") == origin.sha256 and renamed(earlier.get("settings")) == settings


def read_picture(
    source: Path | BinaryIO, frame: int | None, say: Callable[[str], None], *, name: str | None = None
) -> np.ndarray:
    """The pixels of an image file, turned the way viewers show it.

    Without a `frame` the first is read, and `say` is told when the file holds more images. Raises ValueError that
    names the file: there is none, or no such image in it.
    """
    from sam2core.media.files import PictureFile
    from sam2core.media.images import file_pixels
    from sam2core.media.rasters import open_raster

    if isinstance(source, Path) and source.suffix.lower() in RASTERS:
        return open_raster(source, frame=frame or 0)[:, :]
    with PictureFile(source, name=name) as file:
        if frame is None and file.count > 1:
            say(f"{file.name} holds {file.count} images, and the first is taken; --frame N takes another")
        return file_pixels(file, frame or 0)


def unfinished(path: Path) -> Path:
    """What a document is called until the files it speaks of are there: it tells whose they are, from the first on."""
    return path.with_name(path.name + ".part")


@contextmanager
def document(path: Path, text: str) -> Iterator[None]:
    """Write the files that a document speaks of in the block; it has its name when they are there."""
    part = unfinished(path)
    part.write_text(text + "\n", encoding="utf-8")
    yield
    finish(part, path)
