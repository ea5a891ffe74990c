"""Look at training data before training: what is there, and which pairs cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.training.clips import READERS, DataError, LabelledImage, label_pairs, read_pair
from sam2core.training.footage import FOOTAGE, Footage


@dataclass
class Findings:
    """What a source holds; `problems` are sentences that name files."""

    videos: int = 0
    frames: int = 0  # pictures, or labelled frames
    objects: int = 0
    empty: int = 0  # pictures, or first labelled frames of videos, without any object
    areas: list[float] = field(default_factory=list)  # of objects, as shares of their picture
    problems: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Counts in a line."""
        what = f"{self.videos} videos with {self.frames} labelled frames" if self.videos else f"{self.frames} pictures"
        if not self.areas:
            return f"{what}, no object at all"
        low, middle, high = np.percentile(self.areas, [5, 50, 95])
        sizes = f"{low:.2%} / {middle:.2%} / {high:.2%} of the picture (5th, 50th, 95th percentile)"
        return f"{what}, {self.objects} objects of {sizes}; {self.empty} without any"


def inspect(reader: str, root: Path, options: dict[str, Any]) -> Findings:
    """Read a whole source, pair by pair; what cannot be read becomes a problem instead of an error.

    Raises ValueError for a reader there is not.
    """
    found = Findings()
    try:
        if reader in FOOTAGE:
            _footage(FOOTAGE[reader](root, **options), found)
        elif reader in READERS:
            for sample in _pictures(reader, root, options, found):
                found.frames += 1
                sizes = np.bincount(sample.regions.ravel(), minlength=1)
                areas = [sum(int(sizes[r]) for r in group) / sample.regions.size for group in sample.objects]
                found.areas += areas
                found.objects += len(areas)
                found.empty += not areas
        else:
            raise ValueError(f"there is no reader {reader!r}; there are {', '.join((*READERS, *FOOTAGE))}")
    except DataError as error:
        found.problems.append(str(error))
    return found


def _pictures(reader: str, root: Path, options: dict[str, Any], found: Findings) -> Iterator[LabelledImage]:
    if reader != "label_folder":
        yield from READERS[reader](root, **options)
        return
    how = {key: value for key, value in options.items() if key not in ("holdout", "split")}
    pairs, lonely = label_pairs(root)
    found.problems += [f"{path} has no labels/{path.stem}.png" for path in lonely]
    for pair in pairs:
        try:
            yield read_pair(*pair, **how)
        except DataError as error:
            found.problems.append(str(error))


def _footage(collection: list[Footage], found: Findings) -> None:
    for item in collection:
        try:
            length = item.length
            ids = item.objects(0)
            areas = item.masks(0, ids).mean((1, 2)).tolist() if ids else []
            shape, size = item.pictures([0])[0].shape[:2], item.masks(0, ids).shape[1:] if ids else None
            if size is not None and tuple(size) != tuple(shape):
                raise DataError(f"{item.source}: masks of {tuple(size)} on pictures of {tuple(shape)}")
        except DataError as error:
            found.problems.append(str(error))
            continue
        found.videos += length > 1
        found.frames += length
        found.objects += len(ids)
        found.areas += areas
        found.empty += not ids
