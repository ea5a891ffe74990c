"""What a run over a video writes, frame by frame; what is written is valid at any time it is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sam2core.jobs.folder import PLACES

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from sam2core.jobs.interrupt import InterruptGuard
    from sam2core.jobs.plan import Stretch
    from sam2core.jobs.prompts import UserPrompt
    from sam2core.media.frames import FrameSource
    from sam2core.predictors.results import FrameResult

CHUNK = 2**26
"""Mask values at the video's size that are made at once."""


@dataclass
class Tally:
    """What was written so far: frames, and of each object those with an answer, those it is seen on, their IoU."""

    objects: list[str]
    frames: int = 0
    seen: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = {name: [0, 0, 0.0] for name in self.objects}

    def count(self, entry: Mapping[str, Any]) -> None:
        """Take note of a frame in masks.json."""
        self.frames += 1
        for name, one in entry["objects"].items():
            tally = self.seen[name]
            tally[0] += 1
            if one["object_score"] > 0:
                tally[1] += 1
                tally[2] += one["iou"]

    def document(self, colors: Sequence[Sequence[int]], *, all: bool) -> list[dict[str, Any]]:
        """A line of run.json per object; without `all`, only of those that had an answer."""
        return [
            {
                "number": number,
                "id": name,
                "color": colors[number - 1],
                "frames": frames,
                "present": present,
                "iou": round(iou / present, 4) if present else None,
            }
            for number, (name, (frames, present, iou)) in enumerate(self.seen.items(), 1)
            if all or frames
        ]


class ClipOutput:
    """Writes the frames of a run in every form that was asked for.

    Args:
        folder: where to.
        kinds: what, of `sam2core.jobs.folder.KINDS`.
        source: the frames.
        video: what masks.json says of the video's path.
        stretch: which frames of the video they are.
        tally: the objects, and what is counted of them.
        prompts: are drawn on their frames.
        palette: the overlay's colours, of `sam2core.media.render.PALETTES`.
        in_order: frames come in the video's order, so that each can be drawn as it comes.
        resume: the frames that are written already; None begins anew.
        progress: told (label, done, total) while frames are drawn again.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        source: FrameSource,
        video: str,
        stretch: Stretch,
        tally: Tally,
        *,
        prompts: Sequence[UserPrompt],
        palette: str,
        in_order: bool,
        resume: int | None,
        progress: Callable[[str, int, int], None],
    ) -> None:
        from sam2core.media import render

        self.folder, self.source, self.stretch, self.tally = folder, source, stretch, tally
        self.prompts, self.in_order, self.progress = prompts, in_order, progress
        self.objects = tally.objects
        self.colors = render.palette(len(self.objects), palette)
        self.names = _distinct(source)
        self.palette = render.PaletteWriter(folder / PLACES["palette"]) if "palette" in kinds else None
        self.masks = render.MaskWriter(folder / PLACES["masks"], self.objects) if "masks" in kinds else None
        self.cutouts = render.CutoutWriter(folder / PLACES["cutouts"], self.objects) if "cutouts" in kinds else None
        self._overlay = "overlay" in kinds
        self._drawing: render.VideoWriter | None = None
        # the codes also tell --resume what there is: they are written in any case
        about = {"path": video, "fps": source.fps, "frames": source.length}
        path = rle_place(folder, kinds)
        self.rle = render.RleWriter(path, source.size, self.objects, video=about, resume=resume)
        self._open = ExitStack()
        self._open.enter_context(self.rle)

    def __enter__(self) -> ClipOutput:
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
            self.tally.count(frames[frame])
        if self._overlay and self.in_order:
            self._draw(frames, guard)

    def complete(self, guard: InterruptGuard) -> None:
        """Write what can be written only when all frames are known: an overlay whose frames came in another order."""
        if self._overlay and not self.in_order:
            self._draw(self.rle.frames(), guard)

    def _draw(self, frames: Mapping[int, Mapping[str, Any]], guard: InterruptGuard | None) -> None:
        """Draw frames into the mp4 in the video's order; the first call opens it."""
        import numpy as np

        from sam2core.media.images import as_bytes
        from sam2core.ops import rle

        for done, number in enumerate(sorted(frames), 1):
            said = frames[number]["objects"]
            masks = [rle.decode(one["segmentation"]) for one in said.values()]
            stack = np.stack(masks) if masks else np.zeros((0, *self.source.size), dtype=bool)
            index = self.stretch.index(number)
            self._film(number, list(said), stack, as_bytes(self.source[index]), self.source.time(index))
            self.progress("drawing", done, len(frames))
            if guard is not None:
                guard.check()

    def write(self, result: FrameResult, frame: Any, *, time: float | None = None) -> None:
        """Write one frame's answers; `frame` is the image they belong to, `time` when it came from a camera."""
        import numpy as np

        from sam2core.media.images import as_bytes

        index, number = result.frame, self.stretch.number(result.frame)
        name = self.source.name(index) if self.names else f"{number:05d}"
        masks, numbers = split(result, self.objects)
        known = [str(one) for one in result.objects]
        picture = as_bytes(frame) if self.cutouts or self._overlay and self.in_order else None
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
            moment = self.source.time(index) if time is None else time
            self._film(number, known, masks, picture, moment)
        iou, object_score = result.iou.tolist(), result.object_score.tolist()
        self.tally.count(self.rle.write(number, name, masks, iou=iou, object_score=object_score, objects=known))

    def _film(self, number: int, known: list[str], masks: np.ndarray, frame: np.ndarray, time: float | None) -> None:
        from sam2core.media import render

        if self._drawing is None:
            path, fps = self.folder / "overlay.mp4", self.source.fps or 25.0
            self._drawing = self._open.enter_context(render.VideoWriter(path, self.source.size, fps=fps))
        said = [one for one in self.prompts if one.frame == number]
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


def rle_place(folder: Path, kinds: Sequence[str]) -> Path:
    """Where the codes of a run are: among its results, or until it is over."""
    return folder / PLACES["rle"] if "rle" in kinds else folder / "unfinished" / "masks.json"


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
    if result.non_overlapping:
        masks &= np.arange(len(masks))[:, None, None] == rows
    number = np.array([objects.index(str(one)) + 1 for one in result.objects] + [0], dtype=np.int64)
    seen = (best > result.threshold).cpu().numpy()
    return masks, np.where(seen, number[rows], 0)
