"""FrameResult: the masks of all objects on one frame."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sam2core.annotations import integer
from sam2core.ops import masks as mask_ops
from sam2core.predictors.crops import Crop
from sam2core.predictors.object_masks import ObjectMasks, Picture, row_called
from sam2core.predictors.tracks import ObjectTrack
from sam2core.types import NO_OBJECT

if TYPE_CHECKING:
    from sam2core.model import Sam2
    from sam2core.predictors.session_frames import SessionFrames
    from sam2core.predictors.video import VideoPredictor


@dataclass(eq=False, repr=False)
class FrameResult(ObjectMasks):
    """What is known of every object on one frame.

    Rows are objects, in the order of `objects`. An object that has no answer on this frame yet has logits of
    NO_OBJECT, an IoU of 0 and an object score of NO_OBJECT. ``result["dog"]`` is the result of one object.
    """

    frame: int
    objects: tuple[Hashable, ...]
    logits: Tensor  # (N, h, w) low-resolution logits, fp32
    iou: Tensor  # (N,) predicted IoU
    object_score: Tensor  # (N,) object scores; > 0: the object is in the image
    size: tuple[int, int]
    """The video's (H, W)."""
    non_overlapping: bool = False
    threshold: float = 0.0
    crop: Crop | None = None
    """The part of the frame that was looked at, to which `logits` belong; None: all of it."""
    picture: Picture = None
    settled: Tensor | None = None
    """The logits (N, H, W) at the video's size, where objects were taken out of a `non_overlapping` result."""
    nan: Tensor | None = None
    """Whether an answer holds NaN, as a device knows that nobody waited for yet; None: none does."""

    @property
    def video_logits(self) -> Tensor:
        """The logits (N, H, W) at the video's size, NO_OBJECT outside the crop; made when asked for."""
        logits = self.enlarged()
        return mask_ops.non_overlapping(logits) if self.non_overlapping else logits

    def enlarged(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The logits (K, H, W) of rows `start` to `stop` at the video's size, `non_overlapping` or not."""
        self.refuse_nan()
        if self.settled is not None:
            return self.settled[start:stop]
        rows = self.logits[start:stop]
        if not len(rows):
            return rows.new_zeros(0, *self.size)
        if self.crop is None:
            return mask_ops.resize(rows.unsqueeze(1), self.size).squeeze(1)
        x0, y0, x1, y1 = self.crop
        whole = rows.new_full((len(rows), *self.size), NO_OBJECT, dtype=torch.float32)
        whole[:, y0:y1, x0:x1] = mask_ops.resize(rows.unsqueeze(1), (y1 - y0, x1 - x0)).squeeze(1)
        return whole

    @property
    def masks(self) -> dict[Hashable, Tensor]:
        """Object id -> boolean mask (H, W)."""
        return dict(zip(self.objects, self.video_logits > self.threshold, strict=True))

    @property
    def scores(self) -> np.ndarray:
        self.refuse_nan()
        return self.iou.cpu().numpy()

    def each(self) -> Iterator[np.ndarray]:
        apart = self._apart()
        for row in range(len(self)):
            yield (apart.enlarged(row, row + 1)[0] > self.threshold).cpu().numpy()

    def refuse_nan(self) -> None:
        """Raise ValueError where an answer holds NaN. Whoever takes masks or scores asks this."""
        if self.nan is not None and bool(self.nan):
            raise ValueError(mask_ops.NAN)
        self.nan = None

    def cpu(self) -> FrameResult:
        self.refuse_nan()
        settled = None if self.settled is None else self.settled.cpu()
        return replace(
            self,
            logits=self.logits.cpu(),
            iou=self.iou.cpu(),
            object_score=self.object_score.cpu(),
            settled=settled,
        )

    def _apart(self) -> FrameResult:
        return replace(self, settled=self.video_logits, non_overlapping=False) if self.non_overlapping else self

    def _rows(self, rows: list[int]) -> FrameResult:
        return replace(
            self,
            objects=tuple(self.objects[row] for row in rows),
            logits=self.logits[rows],
            iou=self.iou[rows],
            object_score=self.object_score[rows],
            settled=None if self.settled is None else self.settled[rows],
        )

    def _row(self, key: Any) -> int:
        return row_called(key, self.objects)

    def _names(self, names: Any) -> list[str]:
        own = names is None and len(self) > 1
        return super()._names(True if own else names)

    def _columns(self) -> dict[str, Any]:
        return {"frame": self.frame, "object_score": self.object_score.cpu().numpy()}

    def _tracked(self) -> dict[str, Any]:
        whole = all(integer(name) is not None for name in self.objects)  # supervision's are integers
        return {"tracker_id": np.array(self.objects, dtype=np.int64)} if whole else {}

    def _where(self) -> str:
        return f" of frame {self.frame}"


def frame_result(
    predictor: VideoPredictor,
    tracks: Mapping[Hashable, ObjectTrack],
    frame: int,
    *,
    frames: SessionFrames,
) -> FrameResult:
    """What the tracks know of a frame of a video.

    Raises ValueError when an answer holds NaN; what is on another device than the CPU says so when it is read, since
    the host would have to wait for it here.
    """
    logits, iou, object_score = latest_answers(predictor.model, tracks.values(), frame)
    result = FrameResult(
        frame=frame,
        objects=tuple(tracks),
        logits=logits,
        iou=iou,
        object_score=object_score,
        size=frames.size,
        non_overlapping=predictor.non_overlapping,
        threshold=predictor.mask_threshold,
        crop=frames.crop,
        picture=frames.picture(frame),
        nan=(iou.sum() + logits.sum()).isnan() if len(logits) else None,
    )
    if logits.device.type == "cpu":
        result.refuse_nan()
    return result


def latest_answers(model: Sam2, tracks: Collection[ObjectTrack], frame: int) -> tuple[Tensor, Tensor, Tensor]:
    """The low-resolution logits (N, h, w), IoU (N,) and object scores (N,) that tracks have on a frame, fp32.

    A track without an answer there has NO_OBJECT, 0 and NO_OBJECT. Nobody has looked for NaN in them yet.
    """
    h, w = model.prompt_encoder.mask_input_size
    device = model.device
    logits, iou, object_score = [], [], []
    for track in tracks:
        known = track.latest(frame)
        if known is None:
            logits.append(torch.full((1, h, w), NO_OBJECT, device=device))
            iou.append(torch.zeros(1, device=device))
            object_score.append(torch.full((1,), NO_OBJECT, device=device))
        else:
            logits.append(known[0][0].float())
            iou.append(known[1].float())
            object_score.append(known[2][0].float())
    if not logits:
        return torch.zeros(0, h, w, device=device), torch.zeros(0, device=device), torch.zeros(0, device=device)
    return torch.cat(logits), torch.cat(iou), torch.cat(object_score)
