"""Look at training data before training: what is there, and which pairs cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.pictures import DataError
from sam2core.training.clips import LabelledImage, label_pairs, read_pair
from sam2core.training.footage import FOOTAGE, Footage
from sam2core.training.readers import JOBS, READERS

AT_ONCE = 8  # frames of a video in memory


@dataclass
class Findings:
    """What a source holds; `problems` are sentences that name files."""

    videos: int = 0
    frames: int = 0  # pictures, or labelled frames
    objects: int = 0
    empty: int = 0  # pictures without any object, or videos without one on the first labelled frame
    areas: list[float] = field(default_factory=list)  # of objects where they are first seen, as shares of their picture
    problems: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Counts in a line."""
        what = f"{self.videos} videos with {self.frames} labelled frames" if self.videos else f"{self.frames} pictures"
        if not self.areas:
            return f"{what}, no object at all"
        low, middle, high = np.percentile(self.areas, [5, 50, 95])
        sizes = f"{low:.2%} / {middle:.2%} / {high:.2%} of the picture (5th, 50th, 95th percentile)"
        empty = f"{self.empty} begin without any" if self.videos else f"{self.empty} without any"
        return f"{what}, {self.objects} objects of {sizes}; {empty}"


def inspect(
    reader: str, root: Path, options: dict[str, Any], progress: Callable[[int, int], None] | None = None
) -> Findings:
    """Read a whole source, every picture and every mask; what cannot be read becomes a problem instead of an error.

    progress: told how many pictures or videos are done, of how many. Raises ValueError for a reader there is not.
    """
    if reader not in READERS and reader not in FOOTAGE:
        raise ValueError(f"there is no reader {reader!r}; there are {', '.join((*READERS, *FOOTAGE))}")
    found = Findings()
    try:
        looks = list(_looks(reader, root, options, found))
    except DataError as error:
        found.problems.append(str(error))
        return found
    for done, look in enumerate(looks, 1):
        try:
            look(found)
        except DataError as error:
            found.problems.append(str(error))
        if progress is not None:
            progress(done, len(looks))
    return found


def _looks(reader: str, root: Path, options: dict[str, Any], found: Findings) -> Iterator[Callable[[Findings], None]]:
    """What looks at each picture or video of a source."""
    if reader in FOOTAGE:
        yield from (partial(_footage, item) for item in FOOTAGE[reader](root, **options))
    elif reader in JOBS:
        yield from (partial(_picture, job) for job in JOBS[reader](root, **options))
    else:
        how = {key: value for key, value in options.items() if key not in ("holdout", "split")}
        pairs, lonely = label_pairs(root)
        found.problems += [f"{path} has no labels/{path.stem}.png" for path in lonely]
        yield from (partial(_picture, partial(read_pair, *pair, **how)) for pair in pairs)


def _picture(job: Callable[[], LabelledImage | None], found: Findings) -> None:
    sample = job()
    if sample is None:
        return
    sizes = np.bincount(sample.regions.ravel(), minlength=1)
    areas = [sum(int(sizes[region]) for region in group) / sample.regions.size for group in sample.objects]
    found.frames += 1
    found.areas += areas
    found.objects += len(areas)
    found.empty += not areas


def _footage(item: Footage, found: Findings) -> None:
    length = item.length
    areas: dict[int, float] = {}
    for start in range(0, length, AT_ONCE):
        frames = range(start, min(start + AT_ONCE, length))
        for frame, picture in zip(frames, item.pictures(frames)):
            ids = item.objects(frame)
            if not ids:
                continue
            masks = item.masks(frame, ids)
            size, seen = masks.shape[1:], picture.shape[:2]
            if size != seen:
                raise DataError(f"{item.source}, labelled frame {frame}: masks of {size} on a picture of {seen}")
            for number, mask in zip(ids, masks):
                areas.setdefault(number, float(mask.mean()))
        if start == 0:
            found.empty += not item.objects(0)
    found.videos += length > 1
    found.frames += length
    found.objects += len(areas)
    found.areas += areas.values()
