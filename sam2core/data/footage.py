"""Labelled footage: a video or an image with what is known of its objects, read when it is asked for.

Every format of `formats` gives a list of these; training cuts videos out of them, evaluation prompts and scores by
them. Nothing is decoded before it is wanted, and then only the frames and the objects that are. Errors name the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.pictures import DataError, as_displayed, displayed_size, read_frames, read_ids, read_picture
from sam2core.media.frames import open_source
from sam2core.ops import rle
from sam2core.ops.polygons import fill_rings, is_degenerate

Media = Any
"""Where a video's frames are: a tuple of image files, a file of many frames, or a sequence of arrays."""
VOID = 255


class Footage:
    """One video, or one image: its frames, of which some are labelled, and the objects on each of these.

    name       what its answers are called; no other footage of its data set has it
    source     what messages call it
    media      where all its frames are
    labelled   the number of each labelled frame among all frames, in order
    classes    of objects by number, where the format has them
    bare       labels lie without their images: frames have names alone
    notes      sentences about what was left out when it was listed
    """

    overlapping = False
    """Whether a pixel may belong to several objects, so that answers are a folder per object."""

    def __init__(
        self,
        name: str,
        media: Media,
        labelled: Sequence[int] | None = None,
        *,
        source: str = "",
        classes: Mapping[int, str] | None = None,
        bare: bool = False,
    ) -> None:
        self.name, self.media, self.bare = name, media, bare
        self._labelled = range(len(media)) if labelled is None else labelled
        self.source = source or (str(media[0]) if isinstance(media, tuple) and len(media) == 1 else name)
        self.classes = dict(classes or {})
        self.notes: list[str] = []

    @property
    def labelled(self) -> Sequence[int]:
        return self._labelled

    @property
    def length(self) -> int:
        """How many frames are labelled."""
        return len(self.labelled)

    @property
    def still(self) -> bool:
        """Whether this is an image and no video."""
        return isinstance(self.media, tuple) and len(self.media) == 1

    def frame_name(self, number: int) -> str:
        """What the answer for a frame, labelled or not, is called: its file's stem, or its number."""
        if not isinstance(self.media, tuple):
            return f"{number:05d}"
        return self.media[number].name if self.bare else self.media[number].stem

    @property
    def names(self) -> list[str]:
        """The names of the labelled frames."""
        return [self.frame_name(number) for number in self.labelled]

    def object_name(self, number: int) -> str:
        """What an object's folder of answers is called."""
        return f"{number:03d}"

    def palette(self) -> np.ndarray | None:
        """The colours (256, 3) uint8 of the labels' own palette; None where they have none."""
        return None

    def pictures(self, frames: Sequence[int]) -> list[np.ndarray]:
        """The images (H, W, 3) uint8 of some labelled frames, as displayed. Raises DataError."""
        if self.bare:
            raise DataError(f"{self.source} has masks and no images")
        wanted = [self.labelled[frame] for frame in frames]
        if isinstance(self.media, tuple):
            return [read_picture(self.media[number]) for number in wanted]
        return read_frames(self.media, wanted)

    def size(self, frame: int) -> tuple[int, int] | None:
        """The (H, W) of a labelled frame's image as displayed; None where only the labels know."""
        if self.bare or not isinstance(self.media, tuple):
            return None
        return displayed_size(self.media[self.labelled[frame]])

    def fitted(self, labels: np.ndarray, frame: int, origin: str | Path) -> np.ndarray:
        """A map (H, W) turned as its image is displayed, where it was drawn on the image as stored.

        Raises DataError where it fits neither way.
        """
        shown = self.size(frame)
        if shown is None or labels.shape == shown:
            return labels
        picture = self.media[self.labelled[frame]]
        turned = as_displayed(labels, picture)
        if turned is None:
            raise DataError(f"{origin} is {labels.shape}, its image {picture} is {shown}")
        return turned

    def objects(self, frame: int) -> list[int]:
        """The numbers of the objects that may be seen on a labelled frame. Raises DataError."""
        raise NotImplementedError

    def masks(self, frame: int, numbers: Sequence[int]) -> np.ndarray:
        """The masks (N, H, W) bool of some objects on a labelled frame; empty for one that is not there."""
        raise NotImplementedError

    def ignored(self, frame: int) -> np.ndarray | None:
        """Pixels (H, W) bool that count neither in losses nor in scores; None when all count."""
        return None

    def values(self, frame: int) -> list[int]:
        """What a labelled frame's labels say, for messages: the values in its map, or the objects' numbers."""
        return self.objects(frame)

    def read(self, frame: int) -> dict[int, np.ndarray]:
        """Object number -> mask (H, W) bool on a labelled frame."""
        numbers = self.objects(frame)
        return dict(zip(numbers, self.masks(frame, numbers))) if numbers else {}

    def ids(self, frame: int) -> np.ndarray:
        """A map (H, W) of object numbers, 0 where there is none; where several lie, the lower."""
        masks = self.read(frame)
        if not masks:
            size = self.size(frame) or next(iter(self.pictures([frame]))).shape[:2]
            return np.zeros(size, dtype=np.uint16)
        found = np.zeros(next(iter(masks.values())).shape, dtype=np.uint32 if max(masks) > 65535 else np.uint16)
        for number in sorted(masks, reverse=True):
            found[masks[number]] = number
        return found


class Void:
    """Which value of some maps of ids belongs to no object and is not counted.

    given: that value, or None for none; "auto": 255 where a map of 8 bits holds it and any of the `files` has a
    lower id too. Where 255 is the only value, it is an object.
    """

    def __init__(self, given: int | str | None, files: Sequence[Path]) -> None:
        if not (given is None or given == "auto" or isinstance(given, int)):
            raise DataError(f"ignore is a value of the labels, none or auto, not {given!r}")
        self.given, self.files = given, tuple(files)
        self._lower: bool | None = None

    def value(self, ids: np.ndarray) -> int | None:
        """The void value of one of the maps; None where every value but 0 is an object."""
        if self.given != "auto":
            return self.given  # type: ignore[return-value]
        if ids.dtype != np.uint8 or not (ids == VOID).any():
            return None
        if self._lower is None:
            self._lower = _has_lower(ids) or any(_has_lower(read_ids(file)) for file in self.files if file.exists())
        return VOID if self._lower else None


def _has_lower(ids: np.ndarray) -> bool:
    return bool(((ids > 0) & (ids < VOID)).any())


class IdFootage(Footage):
    """Labels that are a map of ids a frame: a pixel's value is its object, 0 is none."""

    def __init__(
        self,
        name: str,
        media: Media,
        maps: Sequence[Any],
        labelled: Sequence[int] | None = None,
        *,
        void: Void | None = None,
        **more: Any,
    ) -> None:
        super().__init__(name, media, labelled, **more)
        self.maps = maps
        self.void = void or Void(None, ())

    def read_map(self, frame: int) -> np.ndarray:
        """The map (H, W) of a labelled frame as its file has it. Raises DataError."""
        return read_ids(self.maps[frame])

    def map(self, frame: int) -> np.ndarray:
        """The map (H, W) of a labelled frame, turned as its image is displayed, void and all. Raises DataError."""
        return self.fitted(self.read_map(frame), frame, self.maps[frame])

    def objects(self, frame: int) -> list[int]:
        ids = self.map(frame)
        return [int(value) for value in np.unique(ids) if value not in (0, self.void.value(ids))]

    def masks(self, frame: int, numbers: Sequence[int]) -> np.ndarray:
        ids = self.map(frame)
        return np.stack([ids == number for number in numbers])

    def ignored(self, frame: int) -> np.ndarray | None:
        ids = self.map(frame)
        void = self.void.value(ids)
        if void is None:
            return None
        where = ids == void
        return where if where.any() else None

    def values(self, frame: int) -> list[int]:
        return [int(value) for value in np.unique(self.map(frame))]

    def read(self, frame: int) -> dict[int, np.ndarray]:
        ids = self.map(frame)
        void = self.void.value(ids)
        return {int(value): ids == value for value in np.unique(ids) if value not in (0, void)}

    def ids(self, frame: int) -> np.ndarray:
        ids = self.map(frame)
        void = self.void.value(ids)
        return ids if void is None else np.where(ids == void, ids.dtype.type(0), ids)


@dataclass(frozen=True)
class Shape:
    """An object on a frame as a file has it: coded, and decoded when it is wanted.

    coded: COCO's run lengths ``{"size", "counts"}``, or rings [[x, y, x, y, ...], ...], each filled by itself.
    """

    number: int
    coded: Any
    label: str = ""


class ShapeFootage(Footage):
    """Labels that are coded masks or polygons, frame by frame; they may overlap.

    sizes: the (H, W) that polygons were drawn on, one for all frames; None: as the image is displayed. crowds: shapes
    frame by frame whose pixels are not counted where no object lies.
    """

    overlapping = True

    def __init__(
        self,
        name: str,
        media: Media,
        shapes: Sequence[Sequence[Shape]],
        labelled: Sequence[int] | None = None,
        *,
        drawn_on: tuple[int, int] | None = None,
        crowds: Sequence[Sequence[Shape]] = (),
        origin: str | Path = "",
        **more: Any,
    ) -> None:
        super().__init__(name, media, labelled, **more)
        self._shapes, self._drawn_on, self.crowds = shapes, drawn_on, crowds
        self.origin = origin or self.source

    def shapes(self, frame: int) -> Sequence[Shape]:
        """What the file says of a labelled frame. Raises DataError."""
        return self._shapes[frame]

    def drawn_on(self, frame: int) -> tuple[int, int] | None:
        """The (H, W) that a frame's labels are for."""
        return self._drawn_on or self.size(frame)

    def objects(self, frame: int) -> list[int]:
        return list(dict.fromkeys(shape.number for shape in self.shapes(frame)))

    def masks(self, frame: int, numbers: Sequence[int]) -> np.ndarray:
        found: dict[int, np.ndarray] = {}
        wanted = set(numbers)
        for shape in self.shapes(frame):
            if shape.number in wanted:
                mask = self._decoded(shape, frame)
                found[shape.number] = found[shape.number] | mask if shape.number in found else mask
        size = next((mask.shape for mask in found.values()), None) or self.size(frame) or self.drawn_on(frame)
        if size is None:
            raise DataError(f"{self.origin} does not say how large its masks are")
        return np.stack([found.get(number, np.zeros(size, dtype=bool)) for number in numbers])

    def ignored(self, frame: int) -> np.ndarray | None:
        crowds = self.crowds[frame] if self.crowds else ()
        if not crowds:
            return None
        where = np.any([self._decoded(shape, frame) for shape in crowds], axis=0)
        for mask in self.read(frame).values():
            where &= ~mask
        return where

    def _decoded(self, shape: Shape, frame: int) -> np.ndarray:
        with naming(self.origin):
            return self.fitted(decode(shape.coded, self.drawn_on(frame)), frame, f"a mask of {self.origin}")


def decode(coded: Any, size: tuple[int, int] | None) -> np.ndarray:
    """A mask (H, W) bool from COCO's run lengths, or from rings [[x, y, x, y, ...], ...] on an image of (H, W).

    Raises ValueError for what is neither, or damaged.
    """
    if not isinstance(coded, list | tuple):
        return rle.decode(coded)
    if size is None:
        raise ValueError("polygons need the size of their image")
    return fill_rings(coded, size)


def usable_rings(rings: Sequence[Sequence[float]]) -> tuple[list[Sequence[float]], int]:
    """The rings that have an inside, and how many have none. Raises ValueError for one that is damaged."""
    for ring in rings:
        if len(ring) % 2:
            raise ValueError(f"a polygon is x, y, x, y, ...: an even number of values, not {len(ring)}")
    kept = [ring for ring in rings if not is_degenerate(ring)]
    return kept, len(rings) - len(kept)


@contextmanager
def naming(origin: str | Path) -> Iterator[None]:
    """What is wrong with a coded mask becomes a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise DataError(f"a mask of {origin}: {type(error).__name__}: {error}") from error


def frame_count(item: Footage) -> int:
    """How many frames a video has, labelled or not."""
    if isinstance(item.media, Path):
        with open_source(item.media) as source:
            return source.length or max(item.labelled) + 1
    return len(item.media)
