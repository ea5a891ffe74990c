"""VideoPredictor: opens sessions; batches the objects of a frame; holds options, no state."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2core.annotations import dtype_name
from sam2core.compile import compile_model
from sam2core.media.frames import open_source
from sam2core.memory.policy import MemoryPolicy
from sam2core.memory.readout import memory_shape
from sam2core.model import Sam2
from sam2core.older import takes_our_words
from sam2core.predictors.object_masks import named
from sam2core.predictors.postprocess import Cleaning, Clicks
from sam2core.predictors.results import FrameResult
from sam2core.predictors.session import VideoSession
from sam2core.predictors.session_file import read_session
from sam2core.predictors.tracks import ObjectTrack
from sam2core.types import FrameMemory, ImageFeatures, MaskCandidates, MaskPrediction, Prompt, Recall

FILLED = 0.1
"""The logit that a filled hole gets (Meta's ``fill_holes_in_mask_scores``)."""
CPU_OBJECTS = 4


class VideoPredictor:
    """Segments objects along videos and streams.

    `open` gives a session, which holds everything that changes; any number of sessions share one predictor.

    Options: `cleaning` edits the steps of `Cleaning`, which are ``{"fill_holes": 8}`` (one that goes by clicks leaves
    alone what is tracked already: a correction names what was missed); `hard_prompt_masks` memorizes prompted frames
    with thresholded masks; `non_overlapping` gives every pixel to one object in the results; `keep_corrections`
    makes a corrected frame a prompted frame (Meta's default loses corrections on tracked frames);
    `forget_around_prompts` clears an object's recent frames near a prompt; `memory_dtype` is the type memories are
    stored in; `objects_per_call` caps how many objects one call of the model takes (None: 4 on a CPU, all elsewhere);
    `frames_per_call` encodes so many frames at once, where they are known ahead, as a GPU does faster;
    `policy` replaces the model's memory policy; `compile` compiles the model's parts, or those named, with shapes that
    stay the same, or all parts in one of torch's modes, such as "reduce-overhead" for CUDA graphs (`compile_model`).
    Source: Meta's ``SAM2VideoPredictor``.
    """

    @takes_our_words
    def __init__(
        self,
        model: Sam2,
        *,
        cleaning: Mapping[str, Any] | None = None,
        hard_prompt_masks: bool = True,
        non_overlapping: bool = False,
        keep_corrections: bool = True,
        forget_around_prompts: bool = False,
        memory_dtype: str = "bfloat16",
        mask_threshold: float = 0.0,
        objects_per_call: int | None = None,
        frames_per_call: int = 1,
        policy: MemoryPolicy | None = None,
        compile: bool | str | Sequence[str] = False,
    ) -> None:
        if objects_per_call is not None and objects_per_call < 1:
            raise ValueError(f"objects_per_call is at least 1, or none for the default, not {objects_per_call}")
        if frames_per_call < 1:
            raise ValueError(f"frames_per_call is a number of frames, 1 or more, not {frames_per_call}")
        self.frames_per_call = frames_per_call
        self.cleaning = Cleaning(fill_holes=8, filled=FILLED).edited(cleaning)
        self.model = compile_model(model.eval(), compile) if compile else model.eval()
        self.hard_prompt_masks = hard_prompt_masks
        self.non_overlapping = non_overlapping
        self.keep_corrections = keep_corrections
        self.forget_around_prompts = forget_around_prompts
        self.memory_dtype = getattr(torch, dtype_name(memory_dtype))
        self.mask_threshold = mask_threshold
        self.policy: MemoryPolicy = model.memory_policy
        if policy is not None:
            model.check_policy(policy)
            self.policy = policy
        self._objects_per_call = objects_per_call

    def __repr__(self) -> str:
        return f"<VideoPredictor of {named(self.model)}>"

    def __call__(self, source: Any, *, frame: int = 0, object: Hashable = 1, **prompt: Any) -> Iterator[FrameResult]:
        """Follow one object through a video: `open` it, `prompt` a frame, and `propagate` from there to the end.

        The prompt is checked at once, the frames are visited as their results are asked for.
        """
        session = self.open(source)
        session.prompt(frame, object, **prompt)
        return session.propagate()

    @takes_our_words
    def open(
        self,
        source: Any = None,
        *,
        keep: str = "horizon",
        start: int = 0,
        stop: int | None = None,
        stride: int = 1,
        crop: Sequence[float] | None = None,
    ) -> VideoSession:
        """A session over a video, or a live one when there is no source.

        `source` is anything `open_source` takes: a video file, a folder of images, arrays, an iterator, a callable; of
        its frames `start` to `stop` are seen, every `stride`-th. `keep` is ``"horizon"`` (memory stays constant) or
        ``"all"``. `crop` x0, y0, x1, y1 is the part of every frame that is looked at, in the video's pixels, as prompts
        and masks still are: a small object is seen larger, and nothing is found outside. Raises ValueError when the
        source cannot be read, and for a crop that holds none of the video.
        """
        frames = None if source is None else open_source(source, start=start, stop=stop, stride=stride)
        return VideoSession(self, frames, keep=keep, crop=crop)

    @takes_our_words
    def load(
        self,
        path: str | os.PathLike[str],
        source: Any = None,
        *,
        start: int = 0,
        stop: int | None = None,
        stride: int = 1,
    ) -> VideoSession:
        """A session saved before, to go on with over the same frames, which are given as to `open`. It keeps its crop.

        Raises ValueError when it was saved by another model, with other options, or over other frames.
        """
        frames = None if source is None else open_source(source, start=start, stop=stop, stride=stride)
        return read_session(self, Path(path), frames)

    @property
    def options(self) -> dict[str, Any]:
        """The options that change what is computed: with the same, one predictor can go on with another's session."""
        return {
            **{f"cleaning.{step}": value for step, value in asdict(self.cleaning).items()},
            "hard_prompt_masks": self.hard_prompt_masks,
            "non_overlapping": self.non_overlapping,
            "keep_corrections": self.keep_corrections,
            "forget_around_prompts": self.forget_around_prompts,
            "memory_dtype": str(self.memory_dtype).removeprefix("torch."),
            "mask_threshold": self.mask_threshold,
            "policy": type(self.policy).__qualname__,
            **{
                f"policy.{name}": value
                for name, value in getattr(self.policy, "__dict__", {}).items()
                if not name.startswith("_") and (value is None or isinstance(value, bool | int | float | str))
            },
        }

    @property
    def objects_per_call(self) -> int:
        """How many objects one call of the model takes."""
        most = CPU_OBJECTS if self.model.device.type == "cpu" else 2**31
        if self.model.fixed is not None and self.model.fixed.objects:
            most = self.model.fixed.objects[-1]
        return most if self._objects_per_call is None else self._objects_per_call

    # what a session computes

    def answer(
        self, features: ImageFeatures, prompt: Prompt, recall: Recall | None, *, state: Any = None
    ) -> MaskPrediction:
        """The answer to one object's points on a frame, seen with its past or without one."""
        model = self.model
        multimask_output = model.multimask.applies(prompt.points.shape[1], tracking=recall is not None)
        candidates = model.segment(
            features, model.condition(features, recall), prompt, multimask_output=multimask_output
        )
        answer = candidates.take(self.policy.choose(candidates, state))
        # a correction names what was missed, not the whole
        clicks = Clicks(prompt.points, prompt.labels, model.image_size) if recall is None else None
        return self._cleaned(answer, clicks)

    def mask_as_output(self, features: ImageFeatures, mask: Tensor) -> MaskPrediction:
        """The answer to one object's mask (H, W) at model size: the mask itself."""
        candidates = self.model.mask_as_output(features, mask.to(self.model.device)[None, None])
        return self._cleaned(candidates.take(torch.zeros(1, dtype=torch.long, device=self.model.device)))

    def memorize(self, features: ImageFeatures, answers: Sequence[MaskPrediction], *, frame: int) -> list[FrameMemory]:
        """The memories that prompted answers of several objects on one frame leave behind."""
        memories = []
        for start in range(0, len(answers), self.objects_per_call):
            part = answers[start : start + self.objects_per_call]
            joined = MaskPrediction.join(part)
            together = self.model.memorize(features, joined, frame=frame, hard=self.hard_prompt_masks)
            memories += self._split(together)
        return memories

    def follow(
        self,
        features: ImageFeatures,
        tracks: Sequence[ObjectTrack],
        frame: int,
        *,
        backwards: bool,
        length: int | None,
    ) -> None:
        """Track objects onto a frame and put what they leave behind into their banks.

        Objects whose recalls have the same shape go through the model together.
        """
        recalls = [
            self.policy.recall(track.bank, frame, backwards=backwards, length=length, state=track.policy_state)
            for track in tracks
        ]
        for places in self.together(recalls):
            self._follow(features, [(tracks[place], recalls[place]) for place in places], frame)

    def together(self, recalls: Sequence[Recall]) -> Iterator[list[int]]:
        """The places of recalls that one call of the model takes: of the same shape, and at most so many."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, recall in enumerate(recalls):
            groups.setdefault(memory_shape(recall), []).append(place)
        for places in groups.values():
            for start in range(0, len(places), self.objects_per_call):
                yield places[start : start + self.objects_per_call]

    def _follow(self, features: ImageFeatures, group: Sequence[tuple[ObjectTrack, Recall]], frame: int) -> None:
        model, count = self.model, len(group)
        filled = count if model.fixed is None else model.fixed.group(count)
        recalls = [recall for _, recall in group] + [group[-1][1]] * (filled - count)
        embedding = model.condition(features, recalls)
        multimask_output = model.multimask.applies(0, tracking=True)
        candidates = model.segment(
            features, embedding, model.tracking_prompt(recalls, self.policy), multimask_output=multimask_output
        )
        index = self._choose(candidates, [track for track, _ in group])
        answer = candidates.take(torch.cat([index, index[-1:].expand(filled - count)]) if filled > count else index)
        memory = model.memorize(features, answer, frame=frame, hard=False)
        memories = self._split(replace(memory, logits=self._cleaned(answer).logits))[:count]
        answers = answer.apart(filled)[:count]
        for (track, _), one, own in zip(group, memories, answers, strict=True):
            track.shown = replace(one, blocks=None)
            keep = self.policy.keep(own, one, track.bank, track.policy_state)
            if keep is not None:
                track.bank.put(one, keep)

    def _cleaned(self, answer: MaskPrediction, clicks: Clicks | None = None) -> MaskPrediction:
        return replace(answer, logits=self.cleaning(answer.logits, clicks))

    def _choose(self, candidates: MaskCandidates, tracks: Sequence[ObjectTrack]) -> Tensor:
        """The candidates (B,) to believe: in one call, where the policy looks at each object's scores alone."""
        if type(self.policy).choose is MemoryPolicy.choose:
            return self.policy.choose(candidates, None)[: len(tracks)]
        own = candidates.apart(candidates.iou.shape[0])[: len(tracks)]
        return torch.cat([self.policy.choose(one, track.policy_state) for one, track in zip(own, tracks, strict=True)])

    def _split(self, memory: FrameMemory) -> list[FrameMemory]:
        """One memory per object, tokens in the storage type: views of one copy, which the model's own tensors outlive.

        Objects that are followed together forget together, so that what one of them still holds, all do.
        """
        assert memory.blocks is not None
        blocks = tuple(
            replace(
                block,
                tokens=block.tokens.to(self.memory_dtype, copy=True),
                position=block.position if block.position.shape[0] == 1 else block.position.clone(),
            )
            for block in memory.blocks
        )
        kept = replace(
            memory,
            blocks=blocks,
            object_pointer=memory.object_pointer.clone(),
            logits=memory.logits.clone(),
            object_score=memory.object_score.clone(),
            iou=memory.iou.clone(),
        )
        return kept.apart(kept.logits.shape[0])
