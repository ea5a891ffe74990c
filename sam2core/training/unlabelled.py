"""Images and clips that nobody has labelled, to learn from a teacher on: guesses say where prompts may lie."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from sam2core.data.footage import Footage, Media
from sam2core.data.pictures import CLIPS, PICTURES, DataError, files_below
from sam2core.media.frames import open_source

GUESSES = 16  # of an image
SIDES = (0.08, 0.7)  # of a guess, as shares of the image's


class Guessed(Footage):
    """Footage whose objects are ellipses anywhere, the same on all frames: a teacher says what lies there.

    They depend on the footage's name and on `seed` alone.
    """

    overlapping = True

    def __init__(self, name: str, media: Media, *, seed: int = 0) -> None:
        super().__init__(name, media, () if isinstance(media, Path) else None)
        self.seed = seed

    @cached_property
    def _length(self) -> int:
        if not isinstance(self.media, Path):
            return len(self.media)
        try:
            with open_source(self.media) as source:
                length = source.length
        except (ValueError, ModuleNotFoundError) as error:
            raise DataError(f"cannot read video {self.media}: {error}") from error
        if length is None:
            raise DataError(f"{self.media} does not say how many frames it has; write it anew as an mp4")
        return length

    @property
    def labelled(self) -> Sequence[int]:
        """All frames; a video is opened for their number when it is first asked for."""
        return range(self._length)

    def objects(self, frame: int) -> list[int]:
        return list(range(1, GUESSES + 1))

    def masks(self, frame: int, numbers: Sequence[int]) -> np.ndarray:
        height, width = self.size(frame) or self.pictures([frame])[0].shape[:2]
        ys, xs = np.mgrid[0.5:height, 0.5:width]
        found = []
        for number in numbers:
            draw = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])
            low, high = np.log(SIDES[0]), np.log(SIDES[1])
            tall, wide = np.exp(draw.uniform(low, high, 2)) * (height, width) / 2
            y, x = draw.uniform(tall, height - tall), draw.uniform(wide, width - wide)
            found.append(((ys - y) / tall) ** 2 + ((xs - x) / wide) ** 2 <= 1)
        return np.stack(found)

    def read(self, frame: int) -> dict[int, np.ndarray]:
        numbers = self.objects(frame)
        return dict(zip(numbers, self.masks(frame, numbers), strict=True))


def unlabelled(root: str | Path, *, folders: bool = False, seed: int = 0) -> list[Footage]:
    """All images and videos below `root`; with `folders` each folder of images is a clip.

    seed: of where the guesses lie. Raises DataError for a folder that holds neither.
    """
    root = Path(root)
    pictures, videos = sorted(files_below(root, PICTURES)), sorted(files_below(root, CLIPS))
    media: list[Media] = [(path,) for path in pictures]
    if folders:
        held: dict[Path, list[Path]] = {}
        for path in pictures:
            held.setdefault(path.parent, []).append(path)
        media = [tuple(held[folder]) for folder in sorted(held)]
    if not media and not videos:
        raise DataError(f"{root} holds no image ({', '.join(PICTURES)}) and no video ({', '.join(CLIPS)})")
    found: list[Footage] = []
    for each in media:
        place = each[0] if len(each) == 1 else each[0].parent
        found.append(Guessed(str(place.relative_to(root)), each, seed=seed))
    return found + [Guessed(str(path.relative_to(root)), path, seed=seed) for path in videos]
