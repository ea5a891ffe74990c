"""Which frame of which video a name means, as labelling tools and our own writers name the images of frames.

Of a video file, ``frame_000012.png``, ``000012.jpg`` and ``12`` are the frame with that number, counted from 0; of a
folder of frames, the name of a file in it is that frame. The video may be named before it, as a folder
(``clip/frame_000012.png``) or in the same word (``clip_frame_000012``, ``clip.mp4#12``); one of several must be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sam2core.data.pictures import displayed_size
from sam2core.jobs.inputs import CLIPS
from sam2core.media.frames import open_source
from sam2core.media.listing import SUFFIXES, listed

_NUMBER = re.compile(r"(?:frame[ _-]?)?(\d+)", re.IGNORECASE)


class Place(NamedTuple):
    """A frame of a video; `frame` counts from 0."""

    video: Path
    frame: int


class FrameNames:
    """The frames of some videos, by name; of images among `media` there are none."""

    def __init__(self, media: Sequence[Path]) -> None:
        self.videos = [path for path in media if path.is_dir() or path.suffix.lower() in CLIPS]
        self._frames = {
            path: {file.stem: index for index, file in enumerate(listed(path, SUFFIXES))}
            for path in self.videos
            if path.is_dir()
        }

    def find(self, text: str) -> Place | None:
        """The frame that a name means; None where it is none of these videos'."""
        path = PurePosixPath(text.replace("\\", "/"))
        name = path.stem if path.suffix.lower() in SUFFIXES else path.name
        for video in self.videos:
            for own in (video.name, video.stem):
                rest = name[len(own) + 1 :] if name.startswith(own) and name[len(own) : len(own) + 1] in "_-#." else ""
                for frame in (rest, name if own in path.parent.parts else ""):
                    if frame and (number := self._number(video, frame)) is not None:
                        return Place(video, number)
        if len(self.videos) == 1 and (number := self._number(self.videos[0], name)) is not None:
            return Place(self.videos[0], number)
        return None

    def _number(self, video: Path, name: str) -> int | None:
        if video in self._frames:
            return self._frames[video].get(name)
        said = _NUMBER.fullmatch(name)
        return None if said is None else int(said[1])


def frame_size(media: Path) -> tuple[int, int]:
    """The (H, W) of an image, or of the frames of a video. Raises ValueError that names it."""
    if media.is_dir() or media.suffix.lower() in CLIPS:
        with open_source(str(media)) as source:
            return source.size
    return displayed_size(media)
