"""What a user says of an object on a frame of a session, and the answer to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sam2core.predictors.crops import Crop
from sam2core.predictors.tracks import FramePrompt, ObjectTrack, Pending
from sam2core.predictors.transforms import (
    check_given,
    crop_mask,
    drawn_mask,
    into_crop,
    read_boxes,
    read_mask,
    read_points,
    to_model_points,
)
from sam2core.types import MASK_INPUT_LIMIT, ImageFeatures, Keep, Label, Prompt

if TYPE_CHECKING:
    from sam2core.predictors.video import VideoPredictor


def read_prompt(
    points: Any,
    labels: Any,
    box: Any,
    mask: Any,
    *,
    earlier: FramePrompt | None,
    size: tuple[int, int],
    crop: Crop | None,
    model_size: tuple[int, int],
) -> FramePrompt:
    """A prompt in a video's pixels as the model reads it; `size` is the video's (H, W), `crop` what is looked at of it.

    Points join those of an `earlier` prompt. Raises ValueError when the prompt makes no sense or lies outside the crop.
    """
    check_given(points, labels, box, mask)
    if mask is not None:
        if points is not None or box is not None:
            raise ValueError("a mask prompt stands alone: give points and box in another call, to correct it")
        drawn = drawn_mask(mask, size)
        drawn = drawn if crop is None else crop_mask(drawn, crop)
        empty = torch.zeros(0, 2)
        return FramePrompt(empty, torch.zeros(0, dtype=torch.int32), read_mask(drawn, model_size))
    parts = []
    if earlier is not None and earlier.mask is None:
        if box is not None:
            raise ValueError("a box comes before all points: it cannot be added to an earlier prompt")
        parts.append((earlier.points, earlier.labels))
    seen = (0, 0, size[1], size[0]) if crop is None else crop
    x0, y0, x1, y1 = seen
    for xy, marks in (
        *([read_boxes(box, size)] if box is not None else []),
        *([read_points(points, labels, size)] if points is not None else []),
    ):
        if xy.shape[0] != 1:
            raise ValueError(f"a prompt is for one object; this one is for {xy.shape[0]}")
        told = marks[0] != Label.IGNORED
        places = into_crop(xy[0][told], marks[0][told], seen)
        parts.append((to_model_points(places, (y1 - y0, x1 - x0), model_size), marks[0][told]))
    if not sum(len(marks) for _, marks in parts):
        raise ValueError("all points are labelled -1: there is no prompt")
    return FramePrompt(torch.cat([xy for xy, _ in parts]), torch.cat([marks for _, marks in parts]))


def answer_prompt(
    predictor: VideoPredictor,
    features: ImageFeatures,
    frame: int,
    track: ObjectTrack,
    said: FramePrompt,
    *,
    length: int | None,
) -> None:
    """Compute the answer to a prompt and leave it pending on the track; `length` is the video's, where it is known."""
    backwards = track.passes.direction(frame)
    correcting = backwards is not None
    mask_input = track.latest(frame)
    if said.mask is not None:
        answer = predictor.mask_as_output(features, said.mask)
    else:
        recall = None
        if correcting and len(track.bank.prompted):
            recall = predictor.policy.recall(
                track.bank, frame, backwards=bool(backwards), length=length, state=track.policy_state
            )
        prompt = Prompt(
            points=said.points.unsqueeze(0).to(predictor.model.device),
            labels=said.labels.unsqueeze(0).to(predictor.model.device),
            mask_input=None if mask_input is None else mask_input[0].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT),
        )
        answer = predictor.answer(features, prompt, recall, state=track.policy_state)
    trusted = not correcting or predictor.keep_corrections or not track.bank.prompted
    keep = Keep.PROMPTED if trusted else Keep.RECENT
    track.prompts[frame] = said
    track.pending[frame] = Pending(answer, keep)
