"""SA-V: ``ID_manual.json`` or ``ID_auto.json`` with coded masklets, beside ``ID.mp4`` or a folder ``ID`` of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.documents import Documents
from sam2core.data.footage import Footage, Shape, ShapeFootage, naming
from sam2core.data.pictures import PICTURES, DataError, files_below, files_in
from sam2core.ops import rle

STEP = 4  # the videos run at 24 frames a second, the masks at 6
KINDS = ("manual", "auto")


class SavVideo(ShapeFootage):
    """A video of SA-V; its masklets are read when they are asked for. Object k of the file is number k + 1."""

    def __init__(self, annotation: Path, video: Path, documents: Documents) -> None:
        self.annotation, self.documents = annotation, documents
        media: Any = tuple(files_in(video, PICTURES)) if video.is_dir() else video
        super().__init__(annotation.stem.rpartition("_")[0], media, (), (), origin=annotation, source=str(annotation))
        self.video = video

    @property
    def masklet(self) -> list[list[Any]]:
        """The coded masks, frame by frame and in each object by object."""
        tree = self.documents(self.annotation)
        if not isinstance(tree, dict) or not tree.get("masklet"):
            raise DataError(f"{self.annotation} holds no 'masklet'")
        return tree["masklet"]

    @property
    def labelled(self) -> Sequence[int]:
        return range(0, STEP * len(self.masklet), STEP)

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        last = max((self.labelled[frame] for frame in frames), default=0)
        if isinstance(self.media, tuple) and last >= len(self.media):
            raise DataError(f"{self.video} has {len(self.media)} frames, {self.annotation} has labels of {last}")
        return super().pictures(frames)

    def size(self, frame: int) -> tuple[int, int] | None:
        return None  # its masks know, and a video's frames have no other orientation

    def object_name(self, number: int) -> str:
        return f"{number - 1:03d}"

    def shapes(self, frame: int) -> Sequence[Shape]:
        with naming(self.annotation):
            row = self.masklet[frame]
            return [Shape(number, coded) for number, coded in enumerate(row, 1) if coded and rle.area(coded)]

    def drawn_on(self, frame: int) -> tuple[int, int] | None:
        with naming(self.annotation):
            sizes = (tuple(coded["size"]) for row in self.masklet for coded in row if coded)
            height, width = next(sizes)
            return int(height), int(width)


def recognise(root: Path) -> bool:
    return bool(masklets(root, "both"))


def masklets(root: Path, kind: str) -> list[Path]:
    """The annotation files of a kind below `root`."""
    wanted = KINDS if kind == "both" else (kind,)
    return [
        path for path in files_below(root, (".json",)) if "_" in path.stem and path.stem.rpartition("_")[2] in wanted
    ]


def read(root: Path, *, kind: str = "") -> list[Footage]:
    """The videos in order. Raises DataError.

    kind: "manual", "auto" or "both"; without it the manual ones where there are any. Frames in folders are those of the
    video, 24 a second.
    """
    if kind not in ("", *KINDS, "both"):
        raise DataError(f"sav: kind is manual, auto or both, not {kind!r}")
    kind = kind or ("manual" if masklets(root, "manual") or not masklets(root, "auto") else "auto")
    found: list[Footage] = []
    documents = Documents()
    for annotation in masklets(root, kind):
        name = annotation.stem.rpartition("_")[0]
        places = [annotation.with_name(name), annotation.with_name(f"{name}.mp4")]
        video = next((place for place in places if place.exists()), None)
        if video is None:
            raise DataError(f"{annotation} has neither a folder {name} nor {name}.mp4 beside it")
        found.append(SavVideo(annotation, video, documents))
    if not found:
        raise DataError(f"no {'*' if kind == 'both' else kind} annotations (ID_{kind}.json) below {root}")
    return found
