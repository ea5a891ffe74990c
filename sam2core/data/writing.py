"""What all writers of labelled data share: images that go along, maps of ids, and an account of what was lost."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2core.data.footage import Footage, frame_count
from sam2core.data.pictures import DataError, read_frames
from sam2core.media.palettes import davis


class Written:
    """What a conversion could not keep, as sentences with counts."""

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._numbers: dict[str, dict[int, int]] = {}

    def lose(self, what: str, count: int = 1) -> None:
        if count:
            self.lost[what] += count

    def lose_identity(self, item: Footage) -> None:
        """Tell that a format of images does not say which objects of a video's frames are the same."""
        if not item.still:
            self.lose("videos whose objects are no longer known from frame to frame")

    @property
    def sentences(self) -> list[str]:
        return [f"lost: {count} {what}" for what, count in self.lost.items()]

    def map_of(self, item: Footage, frame: int, *, largest: int = 65535) -> np.ndarray:
        """A frame's objects as a map (H, W) of numbers up to `largest`; the lower number wins where several lie."""
        if item.overlapping:
            masks = item.read(frame)
            if masks:
                self.lose(
                    "pixels that belong to several objects: they went to the one with the lower number",
                    int((np.sum(list(masks.values()), axis=0) > 1).sum()),
                )
        ids = item.ids(frame)
        numbers = self.numbers(item, largest)
        if any(old != new for old, new in numbers.items()):
            found, places = np.unique(ids, return_inverse=True)
            ids = np.array([numbers.get(int(value), 0) for value in found])[places].reshape(ids.shape)
        return ids.astype(np.uint8 if largest < 256 or max(numbers.values(), default=0) < 255 else np.uint16)

    def numbers(self, item: Footage, largest: int) -> dict[int, int]:
        """Which number each object of some footage gets: its own, or counted from 1 where one is too large."""
        if item.name not in self._numbers:
            all_numbers = sorted({number for frame in range(item.length) for number in item.objects(frame)})
            if len(all_numbers) > largest:
                raise DataError(f"{item.source} has {len(all_numbers)} objects, the format holds {largest}")
            plain = not all_numbers or (all_numbers[-1] <= largest and all_numbers[0] > 0)
            self._numbers[item.name] = {
                number: number if plain else place for place, number in enumerate(all_numbers, 1)
            }
            if not plain:
                self.lose(f"object numbers above {largest}: objects are counted from 1", len(all_numbers))
        return self._numbers[item.name]


def stem_of(item: Footage, frame: int) -> str:
    """What a labelled frame's image is called in a format of images, without its ending."""
    flat = item.name.replace("/", "_")
    return Path(flat).stem if item.still else f"{flat}_{item.names[frame]}"


def copy_pictures(folder: Path, item: Footage, *, every: bool = False) -> list[str]:
    """Copy the labelled frames' files, or every frame's, into a folder; frames of a video in one file become PNGs.

    With `every` the files keep the names of the frames. Returns the names of what was written, without endings.
    Raises DataError where two images would have one name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    numbers = range(frame_count(item)) if every else list(item.labelled)
    for place, number in enumerate(numbers):
        stem = item.frame_name(number) if every else stem_of(item, place)
        if list(folder.glob(f"{glob_safe(stem)}.*")):
            raise DataError(f"{folder} would hold two images called {stem!r}")
        if isinstance(item.media, tuple):
            source = item.media[number]
            shutil.copyfile(source, folder / f"{stem}{source.suffix}")
        else:
            Image.fromarray(read_frames(item.media, [number])[0]).save(folder / f"{stem}.png")
        names.append(stem)
    return names


def glob_safe(text: str) -> str:
    """A text whose special characters mean themselves in a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def write_ids(path: Path, ids: np.ndarray, *, palette: np.ndarray | None = None) -> None:
    """A map (H, W) as a PNG: with colours where 8 bits hold it, grey levels of 16 bits otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids)
    if ids.dtype == np.uint8:
        picture.putpalette((davis() if palette is None else palette).tobytes())
    picture.save(path)


def write_ids_stack(path: Path, maps: Sequence[np.ndarray]) -> None:
    """Maps (H, W) of 16 bits as the pages of a TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = (Image.fromarray(ids) for ids in maps)
    first.save(path, save_all=True, append_images=rest)


def write_document(path: Path, document: Any) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
