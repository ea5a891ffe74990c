"""What a tracking run writes, and what it says of itself in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.progress import Bar
from sam2core.jobs.interrupt import InterruptGuard

if TYPE_CHECKING:
    import numpy as np

    from sam2core.cli.job import Job
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.session import FrameResult

KINDS = ("overlay", "palette", "masks", "rle", "cutouts")
PLACES = {
    "overlay": "overlay.mp4",
    "palette": "palette",
    "masks": "masks",
    "rle": "masks.json",
    "cutouts": "cutouts",
}
"""Where each kind of output lies in the folder."""
CHUNK = 2**26
"""Mask values at the video's size that are made at once."""


_FILM = ("palette/*.png", "overlay.mp4", "overlay.mp4.part")
_LINES = (*_FILM, "masks.jsonl", "masks.jsonl.part")
WRITTEN = {
    "run.json": (
        *_FILM,
        "masks/*/*.png",
        "cutouts/*/*.png",
        "unfinished/*",
        "masks.json",
        "masks.json.part",
        "run.json",
    ),
    "masks.jsonl": _LINES,
    "masks.jsonl.part": _LINES,
}
"""The record of a run of `track`, and those of `automask` through a video -> patterns of all that such a run writes."""


def check_free(folder: Path, kinds: Iterable[str]) -> None:
    """Raise ValueError when a folder holds a run of `track` or `automask`, or what these kinds of output replace."""
    for name in (*WRITTEN, *(PLACES[kind] for kind in kinds)):
        if (folder / name).exists():
            raise ValueError(f"{folder / name} is there already: --force replaces it, -o OTHER keeps it")


def clear(folder: Path) -> None:
    """Delete what earlier runs of `track` and `automask` wrote, and nothing else."""
    for record, patterns in WRITTEN.items():
        if (folder / record).exists():
            for path in [path for pattern in patterns for path in folder.glob(pattern)]:
                path.unlink()


def report(document: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print a run's summary on stdout: JSON for programs, a line per object and output for people."""
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    for one in document["objects"]:
        iou = "" if one["iou"] is None else f"  iou {one['iou']:.2f}"
        click.echo(f"object {one['id']}  present on {one['present']} of {one['frames']} frames{iou}")
    for place in document["files"].values():
        click.echo(str(folder / place) + ("" if "." in place else os.sep))


class Output:
    """Writes a run's frames in every form that was asked for; what it writes is valid at any time it is left."""

    def __init__(self, job: Job, *, in_order: bool, resume: int | None) -> None:
        from sam2core.media import render

        self.job, self.in_order = job, in_order
        folder, kinds, source = job.folder, job.settings["write"], job.source
        self.objects = job.prompts.objects
        self.colors = render.palette(len(self.objects), job.settings["palette"])
        self.names = _distinct(source)
        self.palette = render.PaletteWriter(folder / "palette") if "palette" in kinds else None
        self.masks = render.MaskWriter(folder / "masks", self.objects) if "masks" in kinds else None
        self.cutouts = render.CutoutWriter(folder / "cutouts", self.objects) if "cutouts" in kinds else None
        self._overlay = "overlay" in kinds
        self._drawing: render.VideoWriter | None = None
        # the codes also tell --resume what there is: they are written in any case
        video = {"path": job.settings["video"], "fps": source.fps, "frames": source.length}
        path = folder / "masks.json" if "rle" in kinds else job.unfinished / "masks.json"
        self.rle = render.RleWriter(path, source.size, self.objects, video=video, resume=resume)
        self._open = ExitStack()
        self._open.enter_context(self.rle)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and not self.in_order and self._overlay:
                self._draw(self.rle.frames(), None)
        finally:
            self._open.__exit__(kind, error, trace)

    def redraw(self, guard: InterruptGuard) -> None:
        """Take up what an earlier run has written: count it, and draw its frames again, as no mp4 can be continued."""
        frames = self.rle.frames()
        for frame in frames:
            self.job.count(frames[frame])
        if self._overlay and self.in_order:
            self._draw(frames, guard)

    def complete(self, guard: InterruptGuard) -> None:
        """Write what can be written only when all frames are known: an overlay whose frames came in another order."""
        if self._overlay and not self.in_order:
            self._draw(self.rle.frames(), guard)

    def _draw(self, frames: Mapping[int, Mapping[str, Any]], guard: InterruptGuard | None) -> None:
        """Draw frames into the mp4 in the video's order; the first call opens it."""
        import numpy as np

        from sam2core.ops import rle

        bar = Bar(self.job.say, "drawing", len(frames), 0)
        for done, number in enumerate(sorted(frames), 1):
            said = frames[number]["objects"]
            masks = np.stack([rle.decode(one["segmentation"]) for one in said.values()])
            self._film(number, list(said), masks, pixels(self.job.source[self.job._index(number)]), None)
            bar.update(done)
            if guard is not None:
                guard.check()
        if len(frames):
            bar.finish()

    def write(self, result: FrameResult, frame: Any, *, time: float | None = None) -> None:
        """Write one frame's answers; `frame` is the picture they belong to."""
        import numpy as np

        index, number = result.frame, self.job.number(result.frame)
        name = self.job.source.name(index) if self.names else f"{number:05d}"
        masks, numbers = split(result, self.objects)
        known = [str(one) for one in result.objects]
        picture = pixels(frame) if self.cutouts or self._overlay and self.in_order else None
        if self.palette:
            self.palette.write(name, numbers)
        if self.masks or self.cutouts:
            every = np.zeros((len(self.objects), *masks.shape[1:]), dtype=bool)
            every[[self.objects.index(one) for one in known]] = masks
            if self.masks:
                self.masks.write(name, every)
            if self.cutouts:
                assert picture is not None
                self.cutouts.write(name, picture, every)
        if self._overlay and self.in_order:
            assert picture is not None
            self._film(number, known, masks, picture, time)
        iou, presence = result.iou.tolist(), result.presence.tolist()
        self.job.count(self.rle.write(number, name, masks, iou=iou, presence=presence, objects=known))

    def _film(self, number: int, known: list[str], masks: np.ndarray, frame: np.ndarray, time: float | None) -> None:
        from sam2core.media import render

        if self._drawing is None:
            path, fps = self.job.folder / "overlay.mp4", self.job.source.fps or 25.0
            self._drawing = self._open.enter_context(render.VideoWriter(path, self.job.source.size, fps=fps))
        said = [one for one in self.job.prompts.values() if one.frame == number]
        boxed = [one for one in said if one.box is not None]
        drawn = render.overlay(
            frame,
            masks,
            colors=self.colors[[self.objects.index(one) for one in known]],
            names=known if len(self.objects) > 1 or known != ["1"] else None,
            points=[point for one in said for point in one.points],
            labels=[label for one in said for label in one.labels],
            boxes=[one.box for one in boxed],
            box_colors=self.colors[[self.objects.index(one.object) for one in boxed]],
        )
        self._drawing.write(drawn, time=time)


def _distinct(source: FrameSource) -> bool:
    """Whether the frames' own names tell them apart; in a folder, a.jpg and a.png would not."""
    names = [source.name(index) for index in range(source.length or 0)]
    return len(set(names)) == len(names)


def split(result: FrameResult, objects: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A result's masks (K, H, W) bool at the video's size, and the number of the strongest object (H, W), 0 for none.

    A few objects at a time: at 4K, the logits of one take 33 MB.
    """
    import numpy as np
    import torch

    height, width = result.size
    masks = np.zeros((len(result.objects), height, width), dtype=bool)
    best = torch.full((height, width), -float("inf"), device=result.logits.device)
    owner = torch.full((height, width), -1, dtype=torch.int16, device=result.logits.device)
    step = max(1, CHUNK // (height * width))
    for start in range(0, len(masks), step):
        logits = result.enlarged(start, start + step)
        masks[start : start + step] = (logits > result.threshold).cpu().numpy()
        top, at = logits.max(dim=0)
        stronger = top > best
        owner = torch.where(stronger, (at + start).to(torch.int16), owner)
        best = torch.where(stronger, top, best)
    rows = owner.cpu().numpy()
    if result.exclusive:
        masks &= np.arange(len(masks))[:, None, None] == rows
    number = np.array([objects.index(str(one)) + 1 for one in result.objects] + [0], dtype=np.int64)
    seen = (best > result.threshold).cpu().numpy()
    return masks, np.where(seen, number[rows], 0)


def pixels(frame: Any) -> np.ndarray:
    """A frame of any source as (H, W, 3) uint8."""
    import numpy as np

    values = np.asarray(frame) if isinstance(frame, np.ndarray) else frame.cpu().float().numpy().transpose(1, 2, 0)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    return np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)
