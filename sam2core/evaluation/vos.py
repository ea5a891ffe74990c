"""Run a video predictor over a data set, and write its masks as the data sets' own evaluators want them.

    OUT/VIDEO/FRAME.png           a pixel's value is its object, colours as in the true masks; the lower wins ties;
                                  16 bits without colours where 8 do not hold a number (MOTS)
    OUT/VIDEO/OBJECT/FRAME.png    0 or 1, for data sets with a folder per object, whose masks may overlap
    OUT/manifest.json             what made them, and a hash of each video's files

A video's folder is called ``VIDEO.part`` until it is whole. A run that was stopped goes on with the next video. Source
of the layouts: Meta's ``tools/vos_inference.py``.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sam2core.data.footage import Footage
from sam2core.data.pictures import DataError
from sam2core.data.writing import write_ids
from sam2core.evaluation.clicks import box_of, first_click
from sam2core.jobs.manifest import Record, fingerprint
from sam2core.media.palettes import davis
from sam2core.ops.masks import non_overlapping
from sam2core.storage import disk_errors, finish

if TYPE_CHECKING:
    from sam2core.predictors.results import FrameResult
    from sam2core.predictors.video import VideoPredictor

PROMPTS = ("mask", "click", "box")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """How a data set's videos are to be segmented.

    prompt   what is said of an object on its first frame: its "mask", one "click" in its middle, or its "box"
    later    also take up objects whose first mask comes after the first frame (SA-V, YouTube-VOS, LVOS); otherwise only
             those of the first frame are tracked, as for DAVIS and MOSE
    merged   everything above 0 is one object (DAVIS 2016)

    Raises ValueError for an unknown prompt.
    """

    prompt: str = "mask"
    later: bool = False
    merged: bool = False

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise ValueError(f"prompts are {', '.join(PROMPTS)}, not {self.prompt!r}")


def track_video(
    predictor: VideoPredictor, video: Footage, task: Task, progress: Progress | None = None
) -> Iterator[tuple[str, FrameResult | None]]:
    """The name of each frame of a video with its result, None before the first object; only one frame is ever held.

    `progress(done, total)` is called after every frame. Raises DataError when the first frame has no mask, or there
    is never any.
    """
    session = predictor.open(frames_of(video))
    total = session.length or video.labelled[-1] + 1
    labels = {number: place for place, number in enumerate(video.labelled)}
    known: set[int] = set()
    for index in range(total):
        if index in labels and (index == 0 or task.later):
            for number, mask in sorted(_true_masks(video, labels[index], task).items()):
                if number not in known and mask.any():
                    session.prompt(index, number, **_said(mask, task.prompt))
                    known.add(number)
        name = video.frame_name(index)
        if index == 0 and not known and not task.later:
            values = ", ".join(map(str, video.values(labels[0]))) if 0 in labels else "none: it is not labelled"
            raise DataError(
                f"{video.source} shows no object on the first frame, {name}; its labels' values are {values}; objects "
                "that come later are tracked only when asked for"
            )
        result = next(session.propagate(index, index + 1)) if known else None
        if progress is not None:
            progress(index + 1, total)
        yield name, result
    if not known:
        raise DataError(f"{video.source} shows no object on any frame")


def frames_of(video: Footage) -> Any:
    """A video's frames as `VideoPredictor.open` takes them. Raises DataError for an image."""
    if video.still:
        raise DataError(f"{video.source} is an image and no video; evaluate clicks takes images")
    return [str(path) for path in video.media] if isinstance(video.media, tuple) else video.media


def _true_masks(video: Footage, frame: int, task: Task) -> dict[int, np.ndarray]:
    masks = video.read(frame)
    return {1: np.any(list(masks.values()), axis=0)} if task.merged and masks else masks


def _said(mask: np.ndarray, prompt: str) -> dict[str, Any]:
    """The keywords of `VideoSession.prompt` for an object whose true mask this is."""
    if prompt == "mask":
        return {"mask": mask}
    if prompt == "box":
        return {"box": box_of(mask)}
    click = first_click(mask)
    return {"points": [[click.x, click.y]]}


# files ---------------------------------------------------------------------------------------------------------------


class MaskFiles:
    """Writes a video's masks frame by frame: one map of numbers each, or one PNG of 0 and 1 per object.

    objects: the folders per object, by number; None for maps: palette PNGs, or of 16 bits where 8 do not hold a number.
    """

    def __init__(self, folder: Path, objects: Mapping[int, str] | None, palette: np.ndarray | None = None) -> None:
        self.folder = folder
        self.objects = objects
        self.palette = davis() if palette is None else palette
        self.count = 0
        self._digest = hashlib.sha256()
        for name in [""] if objects is None else objects.values():
            (folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, frame: str, masks: Mapping[int, np.ndarray], size: tuple[int, int]) -> None:
        """Write a frame; masks (H, W) bool by object number, those absent count as empty."""
        if self.objects is not None:
            for number, name in self.objects.items():
                empty = np.zeros(size, dtype=bool)
                self._save(f"{name}/{frame}.png", masks.get(number, empty).astype(np.uint8))
            return
        ids = np.zeros(size, dtype=np.uint8 if max(masks, default=0) < 256 else np.uint16)
        for number in sorted(masks, reverse=True):
            ids[masks[number]] = number
        self._save(f"{frame}.png", ids)

    def _save(self, name: str, values: np.ndarray) -> None:
        write_ids(self.folder / name, values, palette=self.palette)
        self.count += 1
        self._digest.update(name.encode() + b"\0" + values.tobytes())

    @property
    def digest(self) -> str:
        """A hash of the names and pixels written so far, in order."""
        return self._digest.hexdigest()


def result_masks(result: FrameResult | None, *, apart: bool) -> dict[int, np.ndarray]:
    """The masks (H, W) by object number; `apart`: each pixel goes to one object, to the lower number where two tie."""
    if result is None:
        return {}
    order = sorted(range(len(result.objects)), key=lambda row: int(result.objects[row]))  # type: ignore[call-overload]
    logits = result.video_logits[order]
    if apart:
        logits = non_overlapping(logits)
    masks = (logits > result.threshold).cpu().numpy()
    return {int(result.objects[row]): mask for row, mask in zip(order, masks)}  # type: ignore[call-overload]


def write_video(
    predictor: VideoPredictor, video: Footage, task: Task, out: Path, progress: Progress | None = None
) -> Record:
    """Segment one video into ``OUT/VIDEO``. Raises what `track_video` does; then only ``VIDEO.part`` is left."""
    start = time.monotonic()
    unfinished = out / f"{video.name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    per_object = video.overlapping and not task.merged
    objects = sorted({number for frame in range(video.length) for number in video.objects(frame)}) if per_object else []
    folders = {number: video.object_name(number) for number in objects} if per_object else None
    palette = None if per_object else video.palette()
    size = video.pictures([0])[0].shape[:2]
    files = MaskFiles(unfinished, folders, palette)
    frames = 0
    with disk_errors(out):
        for name, result in track_video(predictor, video, task, progress):
            files.write(name, result_masks(result, apart=not per_object), size)
            frames += 1
    shutil.rmtree(out / video.name, ignore_errors=True)
    finish(unfinished, out / video.name)
    return Record(frames, files.count, files.digest, round(time.monotonic() - start, 2))


# many videos ---------------------------------------------------------------------------------------------------------


def made_with(predictor: VideoPredictor, name: str, task: Task) -> dict[str, Any]:
    """What has a say in the masks: a manifest's ``made_by``."""
    model = predictor.model
    return {
        "model": name,
        "fingerprint": fingerprint(model),
        "image_size": list(model.image_size),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": model.device.type,
        "options": predictor.options,
        "task": asdict(task),
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Writers:
    """Makes the workers of a run: called with a worker's number, it builds a predictor and returns what does a video.

    make: called with the worker's number; picklable, as all of this is, for workers in other processes.
    """

    make: Callable[[int], VideoPredictor]
    task: Task
    out: Path
    progress: Callable[[str, int, int], None] | None = None
    """Told a video's name, how many of its frames are done, and how many it has; for one worker, in this process."""

    def __call__(self, number: int) -> Callable[[Footage], Record]:
        predictor = self.make(number)

        def work(video: Footage) -> Record:
            told = None if self.progress is None else partial(self.progress, video.name)
            return write_video(predictor, video, self.task, self.out, told)

        return work
