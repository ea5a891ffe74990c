"""Look at labelled data before it is used: what there is, how large, in which order, and what cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from sam2core.data.footage import Footage
from sam2core.data.pictures import DataError

AT_ONCE = 8  # frames of a video in memory
SHOWN = 20  # values that a sentence names


@dataclass
class Findings:
    """What some footage holds; `problems` are sentences that name files."""

    videos: int = 0
    frames: int = 0  # images, or labelled frames
    objects: int = 0
    empty: int = 0  # images without any object, or videos without one on the first labelled frame
    areas: list[float] = field(default_factory=list)  # of objects where they are first seen, as shares of their image
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (H, W) of images
    values: Counter[int] = field(default_factory=Counter)  # of the labels, by how many frames have them
    classes: Counter[str] = field(default_factory=Counter)  # objects by class
    ignored: int = 0  # frames with pixels that are not counted
    ends: tuple[str, str] = ("", "")  # the first and the last frame's name, of the first video
    notes: list[str] = field(default_factory=list)  # what was left out, as sentences
    problems: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Counts in a line."""
        what = f"{self.videos} videos with {self.frames} labelled frames" if self.videos else f"{self.frames} images"
        if not self.areas:
            return f"{what}, no object at all; the labels' values are {self.shown_values()}"
        low, middle, high = np.percentile(self.areas, [5, 50, 95])
        sizes = f"{low:.2%} / {middle:.2%} / {high:.2%} of the image (5th, 50th, 95th percentile)"
        empty = f"{self.empty} begin without any" if self.videos else f"{self.empty} without any"
        return f"{what}, {self.objects} objects of {sizes}; {empty}"

    def shown_values(self) -> str:
        """The values that labels have, in order."""
        values = sorted(self.values)
        return ", ".join(map(str, values[:SHOWN])) + (f", ... {values[-1]}" if len(values) > SHOWN else "") or "none"

    def lines(self) -> list[str]:
        """All of it, a sentence a line, without the problems."""
        lines = [self.sentence()]
        sizes = [f"{width}x{height} ({count})" for (height, width), count in self.sizes.most_common(5)]
        more = f" and {len(self.sizes) - 5} other sizes" if len(self.sizes) > 5 else ""
        lines.append(f"sizes: {', '.join(sizes)}{more}")
        if self.videos:
            lines.append(f"order: the first video goes from {self.ends[0]} to {self.ends[1]}")
        lines.append(f"values of the labels: {self.shown_values()}")
        if self.classes:
            named = [f"{name} ({count})" for name, count in self.classes.most_common(SHOWN)]
            lines.append(f"classes: {', '.join(named)}{' ...' if len(self.classes) > SHOWN else ''}")
        if self.ignored:
            lines.append(f"{self.ignored} frames have pixels that are not counted")
        return lines + self.notes


def check(footage: Iterable[Footage], progress: Callable[[int], None] | None = None) -> Findings:
    """Read every image and every mask; what cannot be read becomes a problem instead of an error.

    progress: told how many images or videos are done.
    """
    found = Findings()
    for done, item in enumerate(footage, 1):
        found.notes += item.notes
        try:
            examine(item, found)
        except DataError as error:
            found.problems.append(str(error))
        if progress is not None:
            progress(done)
    return found


def examine(item: Footage, found: Findings) -> None:
    """Add what one video or image holds. Raises DataError."""
    length = item.length
    areas: dict[int, float] = {}
    for start in range(0, length, AT_ONCE):
        frames = range(start, min(start + AT_ONCE, length))
        for frame, picture in zip(frames, item.pictures(frames)):
            ids = item.objects(frame)
            found.sizes[(picture.shape[0], picture.shape[1])] += 1
            found.values.update(item.values(frame))
            ignored = item.ignored(frame)
            found.ignored += ignored is not None and bool(ignored.any())
            if not ids:
                continue
            masks = item.masks(frame, ids)
            size, seen = masks.shape[1:], picture.shape[:2]
            if size != seen:
                raise DataError(f"{item.source}, labelled frame {frame}: masks of {size} on an image of {seen}")
            for number, mask in zip(ids, masks):
                areas.setdefault(number, float(mask.mean()))
        if start == 0:
            found.empty += not item.objects(0)
    if not item.still and not found.videos:
        found.ends = item.names[0], item.names[-1]
    found.videos += not item.still
    found.frames += length
    found.objects += len(areas)
    found.areas += areas.values()
    found.classes.update(item.classes[number] for number in areas if number in item.classes)
