"""All masks of a video in one JSON document that can be read while it grows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from sam2core import storage
from sam2core.media.render.writer import Writer, check_count
from sam2core.older import renamed
from sam2core.ops import rle

FORMAT = "sam2core.masks.1"
"""What the first key of a `RleWriter`'s document says."""


class RleWriter(Writer):
    """All masks in one JSON document, as COCO run-length codes, with the scores of every frame.

    ``{"format": "sam2core.masks.1", "video": {"height", "width", ...}, "objects": [{"number", "id"}], "frames":
    {"0": {"name": "00000", "objects": {"ID": {"iou", "object_score", "segmentation"}}}, ...}, "complete": true}``

    `segmentation` is what pycocotools reads; `object_score` is a logit, above 0 the object is in the image. Every
    frame is a line of its own, so that `RleFrames` can read them one at a time. ``complete`` is false when the block
    was left by an error or an interruption. Until then the document has its name with ``.part`` added; after a crash,
    it is there that its frames are, each whole.

    Args:
        path: the document.
        size: the video's (H, W).
        objects: ids, in the order of the rows given to `write`; they must be strings or integers.
        video: more to say of the video, as JSON.
        resume: go on with the document that an earlier writer left, after its first so many frames.

    Raises:
        ValueError: ids that are the same as text; fewer frames there than `resume`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        objects: Sequence[Hashable],
        *,
        video: Mapping[str, Any] | None = None,
        resume: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = [str(one) for one in objects]
        if len(set(self.objects)) < len(objects):
            raise ValueError(f"object ids must differ as text: {', '.join(self.objects)}")
        self.count = 0
        """Frames written so far, those of an earlier writer included."""
        self._unfinished = self.path.with_name(self.path.name + ".part")
        if resume is not None:
            self._file = self._reopen(resume)
            return
        about = {
            "format": FORMAT,
            "video": {"height": size[0], "width": size[1], **(video or {})},
            "objects": [{"number": number, "id": one} for number, one in enumerate(self.objects, 1)],
        }
        self._file = self._unfinished.open("w+b")
        self._file.write(json.dumps(about)[:-1].encode() + b', "frames": {')
        self._file.flush()

    def _reopen(self, wanted: int) -> BinaryIO:
        """The document of an earlier writer, cut after so many frames."""
        if not self._unfinished.exists():
            spare = self._unfinished.with_name(self._unfinished.name + ".new")
            shutil.copyfile(self.path, spare)
            storage.finish(spare, self._unfinished)
        file = self._unfinished.open("r+b")
        end, last = 0, b""
        for index, line in enumerate(file):  # line 0 opens the document
            if index > wanted or index and _parse(line) is None:
                break
            end, last, self.count = end + len(line), line, index
        if not end or self.count < wanted:
            file.close()
            raise ValueError(f"{self._unfinished} has {self.count} frames, not the {wanted} to go on after")
        end -= len(last) - len(last.rstrip(b",\r\n"))  # comma and line break come with the next frame
        file.truncate(end)
        file.seek(end)
        return file

    def write(
        self,
        frame: int,
        name: str,
        masks: np.ndarray | Sequence[np.ndarray],
        *,
        iou: Sequence[float],
        object_score: Sequence[float],
        objects: Sequence[Hashable] | None = None,
    ) -> dict[str, Any]:
        """Add a frame: masks (K, H, W) bool with a score each; of `objects`, when it has not all of them.

        Returns what is written of it, as `RleFrames` will read it.
        """
        objects = self.objects if objects is None else [str(one) for one in objects]
        check_count(masks, objects)
        entry: dict[str, Any] = {
            "name": name,
            "objects": {
                one: {
                    "iou": round(float(score), 4),
                    "object_score": round(float(logit), 4),
                    "segmentation": rle.encode(np.asarray(mask, dtype=bool)),
                }
                for one, mask, score, logit in zip(objects, masks, iou, object_score)
            },
        }
        line = f"{json.dumps(str(frame))}: {json.dumps(entry)}"
        self._file.write((b",\n" if self.count else b"\n") + line.encode())
        self._file.flush()
        self.count += 1
        return entry

    def frames(self) -> RleFrames:
        """What was written so far."""
        self._file.flush()
        return RleFrames(self._unfinished)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.write(b'\n}, "complete": ' + json.dumps(kind is None).encode() + b"}\n")
        storage.finish(self._unfinished, self.path)


class RleFrames(Mapping[int, dict[str, Any]]):
    """The frames of a `RleWriter`'s document, finished or not, read one at a time: number -> what was written of it.

    Raises:
        OSError: no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._offsets: dict[int, int] = {}
        with self._path.open("rb") as file:
            offset = len(file.readline())
            for line in file:
                found = _parse(line)
                if found is not None:
                    self._offsets[found[0]] = offset
                offset += len(line)

    def __getitem__(self, frame: int) -> dict[str, Any]:
        offset = self._offsets[frame]
        with self._path.open("rb") as file:
            file.seek(offset)
            found = _parse(file.readline())
        if found is None:
            raise ValueError(f"{self._path} changed while it was read")
        return found[1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


def _parse(line: bytes) -> tuple[int, dict[str, Any]] | None:
    """A frame's line; None for others, and for one that breaks off."""
    if not line.startswith(b'"'):
        return None
    try:
        ((frame, entry),) = json.loads(b"{" + line.rstrip(b",\r\n") + b"}").items()
    except ValueError:
        return None
    return int(frame), {**entry, "objects": {name: renamed(one) for name, one in entry["objects"].items()}}
