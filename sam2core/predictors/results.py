"""FrameResult: the masks of all objects on one frame."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam2core.ops import masks as mask_ops
from sam2core.predictors.crops import Crop
from sam2core.predictors.tracks import ObjectTrack
from sam2core.types import NO_OBJECT

if TYPE_CHECKING:
    from sam2core.predictors.video import VideoPredictor


@dataclass(eq=False)
class FrameResult:
    """What is known of every object on one frame.

    Rows are objects, in the order of `objects`. An object that has no answer on this frame yet has logits of
    NO_OBJECT, an IoU of 0 and an object score of NO_OBJECT.
    """

    frame: int
    objects: tuple[Hashable, ...]
    logits: Tensor  # (N, h, w) low-resolution logits, fp32
    iou: Tensor  # (N,) predicted IoU
    object_score: Tensor  # (N,) object scores; > 0: the object is in the picture
    size: tuple[int, int]
    """The video's (H, W)."""
    non_overlapping: bool = False
    threshold: float = 0.0
    crop: Crop | None = None
    """The part of the frame that was looked at, to which `logits` belong; None: all of it."""

    @property
    def video_logits(self) -> Tensor:
        """The logits (N, H, W) at the video's size, NO_OBJECT outside the crop; made when asked for."""
        logits = self.enlarged()
        return mask_ops.non_overlapping(logits) if self.non_overlapping else logits

    def enlarged(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The logits (K, H, W) of rows `start` to `stop` at the video's size, `non_overlapping` or not."""
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


def frame_result(
    predictor: VideoPredictor,
    tracks: Mapping[Hashable, ObjectTrack],
    frame: int,
    *,
    size: tuple[int, int],
    crop: Crop | None,
) -> FrameResult:
    """What the tracks know of a frame of a video of (H, W), of which `crop` is looked at.

    Raises ValueError when an answer holds NaN.
    """
    h, w = predictor.model.prompt_encoder.mask_input_size
    device = predictor.model.device
    logits, iou, object_score = [], [], []
    for track in tracks.values():
        known = track.latest(frame)
        if known is None:
            logits.append(torch.full((1, h, w), NO_OBJECT, device=device))
            iou.append(torch.zeros(1, device=device))
            object_score.append(torch.full((1,), NO_OBJECT, device=device))
        else:
            logits.append(known[0][0].float())
            iou.append(known[1].float())
            object_score.append(known[2][0].float())
    if logits:
        mask_ops.refuse_nan(torch.cat(iou), torch.cat(logits))
    return FrameResult(
        frame=frame,
        objects=tuple(tracks),
        logits=torch.cat(logits) if logits else torch.zeros(0, h, w, device=device),
        iou=torch.cat(iou) if iou else torch.zeros(0, device=device),
        object_score=torch.cat(object_score) if object_score else torch.zeros(0, device=device),
        size=size,
        non_overlapping=predictor.non_overlapping,
        threshold=predictor.mask_threshold,
        crop=crop,
    )
