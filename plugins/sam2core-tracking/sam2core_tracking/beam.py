"""Several guesses at once: each keeps memories of its own, and the best whole story wins."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.model import Sam2
from sam2core.predictors.results import FrameResult
from sam2core.predictors.session import VideoSession
from sam2core.predictors.tracks import ObjectTrack
from sam2core.predictors.video import VideoPredictor
from sam2core.types import (
    FrameMemory,
    ImageFeatures,
    Keep,
    MaskCandidates,
    MaskPrediction,
    Recall,
)

ANCHOR_PRESENCE = 10.0
"""What a prompted frame's object score counts as."""


@dataclass(frozen=True, eq=False)
class Story:
    """One answer of a guess, and the story before it."""

    frame: int
    logits: Tensor  # (1, h, w)
    iou: Tensor  # (1,)
    object_score: Tensor  # (1,)
    before: Story | None


@dataclass(frozen=True, eq=False)
class Guess:
    """One way an object may have gone: its memories, the logarithm of how well it is believed, and what it answered."""

    bank: MemoryBank
    score: float = 0.0
    story: Story | None = None


@dataclass
class Guesses:
    """An object's guesses, the best first."""

    rows: list[Guess] = field(default_factory=list)


class BeamMemory(RecentFrames):
    """What a guess recalls: the last `frames` frames on which the object was there, and object pointers of up to
    `object_pointers`.

    Frames count when their predicted IoU exceeds `iou` and their object score is positive; the previous frame always
    does. Object pointers' ages count such frames, not time. Keys of frames are scaled from 0.95 for the least present
    to 1.05 for the most. Looks `reach` frames back.
    """

    def __init__(self, *, iou: float = 0.1, frames: int = 6, object_pointers: int = 16, reach: int = 64) -> None:
        super().__init__(frames=frames, object_pointers=object_pointers)
        if reach < frames:
            raise ValueError(f"tracking.beam: reach must be at least frames ({frames}), not {reach}")
        self.iou = iou
        self.horizon = reach

    def start(self) -> Guesses:
        """No guess yet; the first is made of the prompts."""
        return Guesses()

    def copy(self, state: Guesses) -> Guesses:
        """Guesses over forked banks, which share every tensor."""
        return Guesses([replace(guess, bank=guess.bank.fork()) for guess in state.rows])

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """Prompted frames and the latest frames that count, keys scaled by object score."""
        step = 1 if backwards else -1
        past = [at for at in bank.recent if (at > frame) == backwards and 0 < abs(at - frame) <= self.horizon]
        order = sorted(past, key=lambda at: abs(at - frame))
        usable = self._usable(bank, order, frame + step)
        recent = [at for at in usable if bank.recent[at].blocks is not None][: self.frames]
        slots = [(self.frames, memory) for memory in bank.prompted.values()]
        slots += [(slot, bank.recent[at]) for slot, at in reversed(list(enumerate(recent)))]
        ages = [((frame - at) * -step, memory) for at, memory in bank.prompted.items()]
        object_pointers = [(age, memory) for age, memory in ages if age >= 0]
        object_pointers += [(age + 1, bank.recent[at]) for age, at in enumerate(usable[: self.object_pointers - 1])]
        reach = self.object_pointers if length is None else min(length, self.object_pointers)
        return Recall(slots=self._scaled(slots), object_pointers=tuple(object_pointers), horizon=reach - 1)

    def _usable(self, bank: MemoryBank, order: list[int], before: int) -> list[int]:
        if not order:
            return []
        scores = torch.stack(
            [torch.stack([bank.recent[at].iou.min(), bank.recent[at].object_score.min()]) for at in order]
        )
        return [
            at
            for at, (iou, object_score) in zip(order, scores.tolist())
            if at == before or (iou > self.iou and object_score > 0)
        ]

    def _scaled(self, slots: list[tuple[int, FrameMemory]]) -> tuple[tuple[int, FrameMemory], ...]:
        if len(slots) < 2:
            return tuple(slots)
        recent = [memory.object_score.min() for slot, memory in slots if slot != self.frames]
        known = iter(torch.stack(recent).tolist() if recent else [])
        object_score = [ANCHOR_PRESENCE if slot == self.frames else next(known) for slot, _ in slots]
        scaled = list(slots)
        for rank, place in enumerate(sorted(range(len(slots)), key=lambda place: object_score[place])):
            slot, memory = slots[place]
            assert memory.blocks is not None
            scale = 0.95 + 0.1 * rank / (len(slots) - 1)
            scaled[place] = (
                slot,
                replace(memory, blocks=tuple(replace(block, key_scale=scale) for block in memory.blocks)),
            )
        return tuple(scaled)


class BeamPredictor(VideoPredictor):
    """Tracks every object along up to `beams` guesses, each with memories of its own.

    On each frame every guess offers its candidates; a guess's score is the sum of the logarithms of the predicted IoUs
    it believed. When the object is clearly there or clearly not (some object score beyond `certain`), the best `beams`
    go on; otherwise the best that differ in their rounded IoU do. `propagate` yields the best guess so far, so streams
    work; `settled` gives every frame again as the best guess in the end sees it. With one beam it is greedy tracking
    with the same memory. The other options are those of `VideoPredictor`; `objects_per_call` counts guesses.

    Written from a description of Ding et al. 2024, "SAM2Long: Enhancing SAM 2 for Long Video Segmentation with a
    Training-Free Memory Tree"; unlike it, any number of objects, both directions, and object pointers' keys are not
    scaled.
    """

    def __init__(
        self,
        model: Sam2,
        *,
        beams: int = 3,
        certain: float = 2.0,
        cleaning: Mapping[str, Any] | None = None,
        hard_prompt_masks: bool = True,
        non_overlapping: bool = False,
        keep_corrections: bool = True,
        forget_around_prompts: bool = False,
        memory_dtype: str = "bfloat16",
        mask_threshold: float = 0.0,
        objects_per_call: int | None = None,
        policy: BeamMemory | None = None,
        compile: bool | Sequence[str] = False,
    ) -> None:
        if beams < 1:
            raise ValueError(f"beams is a number of guesses, at least 1, not {beams}")
        super().__init__(
            model,
            cleaning=cleaning,
            hard_prompt_masks=hard_prompt_masks,
            non_overlapping=non_overlapping,
            keep_corrections=keep_corrections,
            forget_around_prompts=forget_around_prompts,
            memory_dtype=memory_dtype,
            mask_threshold=mask_threshold,
            objects_per_call=objects_per_call,
            policy=BeamMemory() if policy is None else policy,
            compile=compile,
        )
        self.beams = beams
        self.certain = certain

    def follow(
        self,
        features: ImageFeatures,
        tracks: Sequence[ObjectTrack],
        frame: int,
        *,
        backwards: bool,
        length: int | None,
    ) -> None:
        """Move every guess of every object onto a frame; the best one's memory goes into the object's bank."""
        asked: list[tuple[ObjectTrack, Guess, Recall]] = []
        for track in tracks:
            for guess in self._guesses(track, frame):
                recall = self.policy.recall(guess.bank, frame, backwards=backwards, length=length, state=None)
                asked.append((track, guess, recall))
        offers = self._offers(features, [recall for _, _, recall in asked])
        for track in tracks:
            mine = [(guess, offer) for (owner, guess, _), offer in zip(asked, offers) if owner is track]
            self._branch(features, track, mine, frame)

    def _guesses(self, track: ObjectTrack, frame: int) -> list[Guess]:
        """The object's guesses, which know all of its prompts and nothing that was taken back or forgotten."""
        state: Guesses = track.policy_state
        if not state.rows:
            state.rows = [Guess(track.bank.fork())]
        for guess in state.rows:
            for memory in track.bank.prompted.values():
                guess.bank.put(memory, Keep.PROMPTED)
            for at in {*guess.bank.prompted, *guess.bank.recent} - {*track.bank.prompted, *track.bank.recent}:
                guess.bank.drop(at)
            guess.bank.trim(frame, self.policy.horizon)
        return state.rows

    def _offers(self, features: ImageFeatures, recalls: Sequence[Recall]) -> list[MaskCandidates]:
        """The candidates of each guess; those whose recalls have the same layout are computed together."""
        model, offers = self.model, {}
        multimask_output = model.multimask.applies(0, tracking=True)
        for places in self.together(recalls):
            pasts = [recalls[place] for place in places]
            embedding = model.condition(features, pasts)
            candidates = model.segment(
                features, embedding, model.tracking_prompt(pasts, self.policy), multimask_output=multimask_output
            )
            for row, place in enumerate(places):
                offers[place] = candidates.rows(slice(row, row + 1))
        return [offers[place] for place in range(len(recalls))]

    def _branch(
        self, features: ImageFeatures, track: ObjectTrack, offers: list[tuple[Guess, MaskCandidates]], frame: int
    ) -> None:
        """Keep the best children of an object's guesses."""
        ious = torch.cat([offer.iou for _, offer in offers]).tolist()
        object_score = torch.cat([offer.object_score[:, 0] for _, offer in offers]).tolist()
        children = [
            (guess.score + math.log(iou + 1e-5), place, index)
            for place, (guess, _) in enumerate(offers)
            for index, iou in enumerate(ious[place])
        ]
        children.sort(key=lambda child: -child[0])
        chosen = children[: self.beams]
        if max(abs(value) for value in object_score) <= self.certain:
            chosen = self._unlike(children, ious, object_score)
        answers = [
            offers[place][1].take(torch.tensor([index], device=features.embedding.device)) for _, place, index in chosen
        ]
        rows = []
        for (score, place, _), memory in zip(chosen, self._memories(features, answers, frame)):
            bank = offers[place][0].bank.fork()
            bank.put(memory, Keep.RECENT)
            story = Story(frame, memory.logits[0], memory.iou, memory.object_score[0], offers[place][0].story)
            rows.append(Guess(bank, score, story))
        track.policy_state.rows = [replace(row, score=row.score - rows[0].score) for row in rows]
        best = rows[0].bank.recent[frame]
        track.shown = replace(best, blocks=None)
        track.bank.put(best, Keep.RECENT)

    def _unlike(
        self, children: list[tuple[float, int, int]], ious: list[list[float]], object_score: list[float]
    ) -> list[tuple[float, int, int]]:
        """The best children whose rounded IoUs, negative for an absent object, differ; failing that, one a guess."""
        chosen: dict[float, tuple[float, int, int]] = {}
        for child in children:
            _, place, index = child
            sign = 1 if object_score[place] > 0 else -1
            chosen.setdefault(round(sign * ious[place][index], 2), child)
        if len(chosen) >= min(self.beams, len(children)):
            return list(chosen.values())[: self.beams]
        first: dict[int, tuple[float, int, int]] = {}
        for child in children:
            first.setdefault(child[1], child)
        return list(first.values())[: self.beams]

    def _memories(
        self, features: ImageFeatures, answers: Sequence[MaskPrediction], frame: int
    ) -> Iterator[FrameMemory]:
        for answer in answers:
            memory = self.model.memorize(features, answer, frame=frame, hard=False)
            yield from self._split(replace(memory, logits=self._cleaned(answer).logits))

    def settled(self, session: VideoSession) -> Iterator[FrameResult]:
        """Every tracked frame of the last pass in order, each object as its best guess now sees it.

        Objects without an answer on a frame are as in `VideoSession.result`.
        """
        stories: dict[Hashable, dict[int, Story]] = {}
        for track in session.tracks.values():
            told = stories.setdefault(track.id, {})
            story = track.policy_state.rows[0].story if track.policy_state.rows else None
            while story is not None:
                told.setdefault(story.frame, story)
                story = story.before
        for frame in sorted({frame for told in stories.values() for frame in told}):
            result = session.result(frame)
            for row, object in enumerate(result.objects):
                story = stories[object].get(frame)
                if story is not None:
                    result.logits[row] = story.logits[0]
                    result.iou[row] = story.iou[0]
                    result.object_score[row] = story.object_score[0]
            yield result
