"""ImageMemory: objects on labelled images, remembered so that they are found on other images."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam2core.memory.policy import UnrelatedImages
from sam2core.model import Sam2
from sam2core.ops.masks import refuse_nan
from sam2core.predictors.object_masks import ObjectMasks
from sam2core.predictors.results import latest_answers
from sam2core.predictors.session import VideoSession, object_id
from sam2core.predictors.session_prompts import answer_prompt, read_prompt
from sam2core.predictors.tracks import ObjectTrack
from sam2core.predictors.video import VideoPredictor
from sam2core.types import ImageFeatures


@dataclass(frozen=True, eq=False)
class ImageMemory:
    """What objects left behind on labelled images; a value, which `remember` makes anew.

    It is what a session over unrelated images holds (`memory.policy.UnrelatedImages`): the labelled images are
    its prompted frames, in order, and every other image is the frame that follows them.
    """

    video: VideoPredictor
    tracks: Mapping[Hashable, ObjectTrack] = field(default_factory=dict)
    images: int = 0
    """How many are remembered."""

    @classmethod
    def of(cls, model: Sam2) -> ImageMemory:
        """An empty memory. A mask is remembered as it was drawn, and found as the model has it: no hole is filled."""
        return cls(VideoPredictor(model, cleaning={"fill_holes": 0}, policy=UnrelatedImages(model.memory_policy)))

    @torch.inference_mode()
    def remember(
        self, features: ImageFeatures, size: tuple[int, int], masks: Any, object_ids: Sequence[Hashable] | None
    ) -> ImageMemory:
        """A memory that also holds the masks of objects on one more image of (H, W), which was encoded.

        Arguments are those of `ImagePredictor.remember`, which says what is refused.
        """
        drawn = dict(zip(_ids(object_ids, masks_of := _separate(masks), masks), masks_of, strict=True))
        policy, frame = self.video.policy, self.images
        tracks = {id: track.fork(policy.copy) for id, track in self.tracks.items()}
        for id, mask in drawn.items():
            try:
                said = read_prompt(
                    None, None, None, mask,
                    earlier=None, size=size, crop=None, model_size=self.video.model.image_size,
                )  # fmt: skip
            except ValueError as error:
                raise ValueError(f"object {id!r}: {error}") from error
            if said.mask is None or not said.mask.any():
                raise ValueError(f"object {id!r}: its mask is empty at the size that the model sees; leave it out")
            track = tracks.setdefault(id, ObjectTrack(id, policy_state=policy.start()))
            answer_prompt(self.video, features, frame, track, said, length=None)
        pending = {id: tracks[id].pending.pop(frame) for id in drawn}
        memories = self.video.memorize(features, [one.answer for one in pending.values()], frame=frame)
        for (id, one), memory in zip(pending.items(), memories, strict=True):
            tracks[id].bank.put(memory, one.keep)
        return replace(self, tracks=tracks, images=frame + 1)

    @torch.inference_mode()
    def find(self, features: ImageFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (K, h, w), IoU (K,) and object scores (K,) of the remembered objects on an image."""
        tracks = [track.fork(self.video.policy.copy) for track in self.tracks.values()]
        frame = self.images
        self.video.follow(features, tracks, frame, backwards=False, length=frame + 1)
        logits, iou, object_score = latest_answers(self.video.model, tracks, frame)
        refuse_nan(iou, logits)
        return logits, iou, object_score

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file: a saved session without frames. Ids must be strings or integers."""
        session = self.video.open()
        session.tracks, session.position = dict(self.tracks), self.images - 1
        session.save(path)

    def load(self, path: str | os.PathLike[str]) -> ImageMemory:
        """A memory that was saved. Raises ValueError for a file that holds none, or one of another model."""
        session = self.video.load(path)
        if not _is_memory(session):
            raise ValueError(f"{str(Path(path))!r} is a session over frames; remembered images have none")
        return replace(self, tracks=session.tracks, images=(session.position or 0) + 1)


def _is_memory(session: VideoSession) -> bool:
    """Whether all that a session holds are prompted frames, of no size that all share."""
    banks = [track.bank for track in session.tracks.values()]
    return session._frames.known_size is None and bool(banks) and not any(bank.recent for bank in banks)


def _separate(masks: Any) -> list[Any]:
    """One mask (H, W) an object, as they were given."""
    if isinstance(masks, ObjectMasks):
        return list(masks.each())
    if isinstance(masks, Mapping):
        raise ValueError("masks are (H, W) for one object or (K, H, W) for K, and object_ids says what they are called")
    if isinstance(masks, list | tuple):
        return list(masks)
    values = masks if isinstance(masks, Tensor) else np.asarray(masks)
    if values.ndim not in (2, 3):
        raise ValueError(f"masks are (H, W) for one object or (K, H, W) for K, not {tuple(values.shape)}")
    return [values] if values.ndim == 2 else list(values)


def _ids(given: Sequence[Hashable] | None, separate: Sequence[Any], masks: Any) -> list[Hashable]:
    """What the objects are called: as was said, as the result that is remembered has it, or numbers from 0."""
    if not separate:
        raise ValueError("there is no mask to remember")
    if given is None:
        return list(masks.objects) if isinstance(masks, ObjectMasks) else list(range(len(separate)))
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray):
        raise ValueError(f"object_ids is a list, one for each of {len(separate)} masks, not {given!r}")
    ids = [object_id(id) for id in given]
    if len(ids) != len(separate) or len(set(ids)) != len(ids):
        raise ValueError(f"object_ids are as many as the masks, {len(separate)}, and all different, not {ids}")
    return ids
