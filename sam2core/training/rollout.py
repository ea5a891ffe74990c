"""Run the model over clips as a predictor would, with simulated prompts, and teach it on every step's answer.

The same four verbs, the same memory bank and the same policy as in a video session; a photo is a clip of one
frame. All objects that enter a clip on the same frame are one batch of the decoder and of the memory attention.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sam2core.memory.bank import MemoryBank
from sam2core.memory.policy import RecentFrames
from sam2core.ops.masks import resize
from sam2core.ops.pixels import normalise
from sam2core.training.clips import ClipBatch
from sam2core.training.dense import affinity
from sam2core.training.losses import LossWeights, soft_target, step_losses, upstream_losses
from sam2core.training.optim import blocks_of
from sam2core.training.prompting import CORRECTION, PromptPlan, answered_by_three, points_of, sample_correction
from sam2core.training.seeded_random import SeededRandom
from sam2core.training.teacher import Following, Heard, SeenFrame, Teacher
from sam2core.types import (
    MASK_INPUT_LIMIT,
    DecoderOutput,
    ImageFeatures,
    Keep,
    MaskPrediction,
    Prompt,
)

PRECISIONS = ("full", "decoder", "half")
FRAME = 20  # tag of draws


@dataclass(frozen=True)
class TrainMemory:
    """How remembering in training may differ from remembering in a session."""

    future_prompts: bool = True  # frames ahead of a prompted one are tracked, too, knowing that prompt
    stream: bool = True  # ages are coded as in a video of unknown length; False: as in a video as long as the clip
    hard_prompts: bool = True  # prompted frames are memorized thresholded, as `VideoPredictor` does by default
    keep_corrections: bool = True  # a corrected frame becomes a prompted frame
    mask_input_gradient: bool = False  # the loss of a correction reaches the answer that was its mask input


@dataclass(frozen=True, eq=False)
class Group:
    """Objects of a batch that enter on the same frame; rows may come from different clips."""

    features: ImageFeatures  # of all frames of all clips of the batch, clip by clip
    owner: Tensor  # (M,) the clip of each row
    masks: Tensor  # (M, T, H, W) bool
    entry: int
    draws: SeededRandom
    taught: tuple[int, ...]  # frames that are taught; the others have no gradient
    void: Tensor | None = None  # (B, T, H, W) bool: pixels of the clips that are not counted
    following: Following | None = None  # a teacher on the same objects

    @property
    def frames(self) -> int:
        return self.masks.shape[1]

    def on(self, frame: int) -> ImageFeatures:
        """Each row's image features on a frame."""
        return self.features.rows(self.owner * self.frames + frame)

    def ignored(self, frame: int) -> Tensor | None:
        """Each row's pixels (M, H, W) that are not counted on a frame; None when all are."""
        return None if self.void is None else self.void[self.owner, frame]


def resize_model(model: nn.Module, size: int | tuple[int, int]) -> None:
    """Let a model work on images of (size, size) or (H, W) from now on; weights do not depend on the size."""
    shape = (size, size) if isinstance(size, int) else size
    model.image_size = shape  # type: ignore[assignment]
    model.prompt_encoder.image_size = shape  # type: ignore[union-attr,assignment]


class Rollout(nn.Module):
    """One training step's forward pass: encode all frames once, prompt every object, track, correct; the losses.

    precision: "full" computes as the weights are, "decoder" decodes in bfloat16 (most of a step on images, and
    half the time there), "half" does everything in bfloat16 autocast. checkpoint_decoder: forget what decoder steps
    computed and compute it again for the gradient. teacher: teaches the model besides, or, where its `distil` says so,
    alone.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        memory: TrainMemory = TrainMemory(),
        precision: str = "decoder",
        checkpoint_decoder: bool = False,
        teacher: Teacher | None = None,
    ):
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
        self.model = model
        self.memory = memory
        self.precision = precision
        self.checkpoint_decoder = checkpoint_decoder
        self.teacher = teacher
        self.record: list[dict[str, Any]] | None = None
        self.policy = copy.copy(model.memory_policy)
        if memory.future_prompts and isinstance(self.policy, RecentFrames):
            self.policy.future_object_pointers = True

    @contextmanager
    def recording(self) -> Iterator[list[dict[str, Any]]]:
        """A list of all prompts that are given while this lasts, as plain values."""
        self.record = []
        try:
            yield self.record
        finally:
            self.record = None

    def forward(
        self, batch: ClipBatch, plan: PromptPlan | None, weights: LossWeights, *, dense: float, key: tuple[int, ...]
    ) -> dict[str, Tensor]:
        """Named losses, each the *sum* over the batch's objects; "total" is the one to minimise.

        An object's loss is the mean over its frames; the steps of a frame share its weight. Divide by the number of
        objects. dense: weight of the dense supervision of the trunk; without a plan there is nothing else, and the
        decoder's attention is not run at all. key: (seed, step), what all chances are drawn from.
        """
        with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=self.precision == "half"):
            return self._forward(batch, plan, weights, dense, key)

    def _forward(
        self, batch: ClipBatch, plan: PromptPlan | None, weights: LossWeights, dense: float, key: tuple[int, ...]
    ) -> dict[str, Tensor]:
        clips, frames, count = batch.masks.shape[:3]
        counted = batch.counted.flatten()
        taught = tuple(range(frames) if plan is None else plan.lessons(frames, SeededRandom(key, [0])))
        features = self._encode(batch.frames, taught)
        named: dict[str, Tensor] = {"total": features.embedding.new_zeros((), dtype=torch.float32)}
        if dense > 0:
            first = features.rows(torch.arange(clips, device=features.embedding.device) * frames)
            draws = SeededRandom(key, batch.numbers.flatten())
            named |= self._dense(first, batch.masks[:, 0], weights, draws, int(counted.sum()), batch.ignored)
            named["total"] = dense * named["dense"]
        theirs = None
        if self.teacher is not None:
            theirs = self.teacher.encode(batch.frames.flatten(0, 1))
            named["teacher_embedding"] = self.teacher.compare(self.model, features, theirs, batch.counted, taught)
            named["total"] = named["total"] + self.teacher.distil.embedding * named["teacher_embedding"]
        if plan is None:
            return named
        masks = batch.masks.transpose(1, 2).flatten(0, 1)
        visible = masks.flatten(2).any(2)
        entry = torch.where(visible.any(1), visible.float().argmax(1), 0).cpu()
        for at in sorted(set(entry[counted].tolist())):
            rows = torch.nonzero((entry == at) & counted)[:, 0]
            there = rows.to(masks.device)
            own = SeededRandom(key, batch.numbers.flatten()[rows])
            group = Group(features, there // count, masks[there], at, own, taught, batch.ignored)
            if self.teacher is not None and theirs is not None:
                group = replace(group, following=self.teacher.follow(group, theirs))
            for name, value in self.track(group, plan, weights).items():
                named[name] = named.get(name, 0) + value.sum()
        return named

    def resize(self, size: tuple[int, int]) -> None:
        """Let the model work on images of (H, W) from now on."""
        resize_model(self.model, size)

    def encode(self, pictures: Tensor) -> ImageFeatures:
        """uint8 images (B, 3, H, W) to features."""
        return self.model.encode(normalise(pictures.float() / 255))

    def _encode(self, clips: Tensor, taught: tuple[int, ...]) -> ImageFeatures:
        """Features of all frames of clips (B, T, 3, H, W), clip by clip; those that are not taught have no graph."""
        if len(taught) == clips.shape[1]:
            return self.encode(clips.flatten(0, 1))
        numbers = torch.arange(clips.shape[0] * clips.shape[1], device=clips.device)
        first = torch.isin(numbers % clips.shape[1], torch.tensor(taught, device=clips.device))
        parts = [self.encode(clips.flatten(0, 1)[first])]
        with _graph(False):
            parts.append(self.encode(clips.flatten(0, 1)[~first]))
        order = torch.argsort(torch.cat([numbers[first], numbers[~first]]))
        return ImageFeatures.join(parts).rows(order)

    def _dense(
        self,
        features: ImageFeatures,
        masks: Tensor,
        weights: LossWeights,
        draws: SeededRandom,
        counted: int,
        ignored: Tensor | None,
    ) -> dict[str, Tensor]:
        embedding = self.model.condition(features, None)
        void = None if ignored is None else ignored[:, 0]
        loss, reached = affinity(self.model.mask_decoder, features, embedding, masks, weights, draws, void)
        return {"dense": loss * counted, "dense_iou": reached * counted}

    def track(self, group: Group, plan: PromptPlan, weights: LossWeights) -> dict[str, Tensor]:
        """The named losses (M,) of a group of objects over its clip: prompted frames first, then the others."""
        frames = group.frames
        schedule = plan.schedule(frames, group.entry, group.draws, before=self.memory.future_prompts)
        masked = plan.masked(group.draws, frames=frames).to(group.masks.device)
        bank, state = MemoryBank(), self.policy.start()
        named: dict[str, Tensor] = {}
        share = 1 if weights.compat else len(group.taught)  # Meta's loss is a sum
        for frame in schedule.order:
            prompted, clicks = frame in schedule.prompted, schedule.corrections.get(frame, 0)
            last = frame == schedule.order[-1]
            features = group.on(frame)
            recall = None
            if not prompted:
                length = None if self.memory.stream else frames
                recall = self.policy.recall(bank, frame, backwards=False, length=length, state=state)
            with _graph(frame in group.taught):
                answer, losses = self._frame(
                    group, frame, features, recall, plan, weights, masked=masked, clicks=clicks, answered=not last
                )
                for name, value in losses.items():
                    named[name] = named.get(name, 0) + value / share
                if last:
                    break
                assert answer is not None
                hard = self.memory.hard_prompts and (prompted or clicks > 0)
                if group.following is not None:
                    group.following.memorize(frame, hard=hard, trusted=prompted)
                memory = self.model.memorize(features, answer, frame=frame, hard=hard)
                trusted = prompted or (clicks > 0 and self.memory.keep_corrections)
                keep = Keep.PROMPTED if trusted else self.policy.keep(answer, memory, bank, state)
                if keep is not None:
                    bank.put(memory, keep)
        return named

    def _frame(
        self,
        group: Group,
        frame: int,
        features: ImageFeatures,
        recall: Any,
        plan: PromptPlan,
        weights: LossWeights,
        *,
        masked: Tensor,
        clicks: int,
        answered: bool,
    ) -> tuple[MaskPrediction | None, dict[str, Tensor]]:
        """Prompt or track one frame and correct it. The answer, if it is asked for, and the losses (M,)."""
        target, draws = group.masks[:, frame], group.draws.at(FRAME, frame)
        embedding = self.model.condition(features, recall)
        ignored = group.ignored(frame)
        prompt = plan.first(target, draws) if recall is None else self.model.tracking_prompt([recall])
        given = masked if recall is None else torch.zeros_like(masked)
        seen = None
        if group.following is not None:
            length = None if self.memory.stream else group.frames
            size = (target.shape[-2], target.shape[-1])
            seen = group.following.look(frame, prompt if recall is None else None, target, given, length, size)
            if seen.alone:
                target, ignored = seen.target, None
        losses = FrameLosses(target, weights, ignored, seen) if frame in group.taught else None
        if losses is not None and recall is not None:
            losses.remember(self.model, embedding)
        answer = self._first(features, embedding, prompt, target, given, losses, recall is not None, clicks or answered)
        open_rows = ~given if plan.correct_masks else ~masked
        rows = torch.nonzero(open_rows)[:, 0]
        if recall is not None:
            # corrections are the first points of a tracked frame
            prompt = Prompt(prompt.points[:, :0], prompt.labels[:, :0])
        for number in range(clicks if len(rows) else 0):
            assert answer is not None
            mask_input = answer.logits[rows].float().clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
            marked = resize(mask_input.detach(), (target.shape[-2], target.shape[-1]))[:, 0] > 0
            if ignored is not None:  # nobody corrects what is not counted
                marked = torch.where(ignored[rows], target[rows], marked)
            points, labels = sample_correction(
                marked,
                target[rows],
                draws.of(rows).at(CORRECTION, number),
                centre=plan.centre,
                from_target=plan.from_target,
            )
            if number == 0:
                prompt = prompt.rows(rows)
            prompt = prompt.then(points, labels)
            seen_before = mask_input if self.memory.mask_input_gradient else mask_input.detach()
            passed = not plan.between and number + 1 < clicks
            with _graph(not passed):
                better = self._ask(
                    features.rows(rows),
                    embedding[rows],
                    replace(prompt, mask_input=seen_before),
                    None if passed else losses,
                    rows,
                    tracking=recall is not None,
                    answered=answered or number + 1 < clicks,
                )
            if better is not None:
                answer = merge_answers(answer, better, rows)
        return answer, {} if losses is None else losses.means()

    def _first(
        self,
        features: ImageFeatures,
        embedding: Tensor,
        prompt: Prompt,
        target: Tensor,
        given: Tensor,
        losses: FrameLosses | Heard | None,
        tracking: bool,
        answered: int | bool,
    ) -> MaskPrediction | None:
        """The answer to the first prompt: rows that are `given` their mask are answered by it, others are decoded."""
        every = torch.arange(len(target), device=target.device)
        if not given.any():
            return self._ask(features, embedding, prompt, losses, every, tracking=tracking, answered=bool(answered))
        shown, asked = every[given], every[~given]
        candidates = self.model.mask_as_output(features.rows(shown), target[shown, None].float())
        known = candidates.take(torch.zeros_like(shown))
        if not len(asked):
            return known
        answer = self._ask(
            features.rows(asked),
            embedding[asked],
            prompt.rows(asked),
            losses,
            asked,
            tracking=tracking,
            answered=bool(answered),
        )
        return None if answer is None else join_answers([(shown, known), (asked, answer)])

    def _ask(
        self,
        features: ImageFeatures,
        embedding: Tensor,
        prompt: Prompt,
        losses: FrameLosses | Heard | None,
        rows: Tensor,
        *,
        tracking: bool,
        answered: bool,
    ) -> MaskPrediction | None:
        """Decode one step, add its losses where they are asked for, and say what a user would see of it."""
        if self.record is not None:
            told = {
                "points": prompt.points.tolist(),
                "labels": prompt.labels.tolist(),
                "mask_input": prompt.mask_input is not None,
            }
            self.record.append({"tracking": tracking, "rows": rows.tolist(), **told})
        output = self._decode(features, embedding, prompt)
        points = points_of(prompt)
        multimask_output = answered_by_three(self.model.multimask, prompt, tracking=tracking)
        offers = (
            {flag: self.model.select_masks(output, multimask_output=flag) for flag in (True, False)} if answered else {}
        )
        if losses is not None:
            losses.add(self.model, output, prompt, multimask_output, rows)
        if not answered:
            return None
        best = offers[True].take(self.policy.choose(offers[True], None))
        single = offers[False].take(torch.zeros_like(points))
        if bool(multimask_output.all()):
            return best
        if not multimask_output.any():
            return single
        mixed = [torch.where(_like(multimask_output, a), a, b) for a, b in zip(best.values(), single.values())]
        return MaskPrediction.only(*mixed)

    def _decode(self, features: ImageFeatures, embedding: Tensor, prompt: Prompt) -> DecoderOutput:
        # the decoder is most of a step; half precision halves it and more, while small-channelled trunks gain nothing
        with torch.autocast(embedding.device.type, torch.bfloat16, enabled=self.precision != "full"):
            if self.checkpoint_decoder:
                half = checkpoint(self.model.decode, features, embedding, prompt, use_reentrant=False)
            else:
                half = self.model.decode(features, embedding, prompt)
        return DecoderOutput(half.masks.float(), half.iou.float(), half.tokens.float(), half.object_score.float())


@contextmanager
def _graph(wanted: bool) -> Iterator[None]:
    """Gradients only where they are wanted.

    Autocast keeps what it has cast, and torch 2.5 takes weights cast without a graph where one is wanted.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
        yield
    if not wanted:
        torch.clear_autocast_cache()


class FrameLosses:
    """The losses of all steps of one frame, row by row; rows may differ in their number of steps.

    seen: what a teacher says of the frame; its losses are added to those of the target, or stand for them.
    """

    def __init__(
        self, target: Tensor, weights: LossWeights, ignored: Tensor | None = None, seen: SeenFrame | None = None
    ):
        self.target, self.weights, self.ignored, self.seen = target, weights, ignored, seen
        self.remembered: dict[str, Tensor] = {}
        size = (target.shape[-2] // 4, target.shape[-1] // 4)
        self.soft = None if weights.compat else soft_target(target, size)
        if self.soft is not None and ignored is not None:
            self.ignored = soft_target(ignored, size) > 0
        self.steps = torch.zeros(len(target), device=target.device)
        self.sums: dict[str, Tensor] = {}

    def add(
        self, model: nn.Module, output: DecoderOutput, prompt: Prompt, multimask_output: Tensor, rows: Tensor
    ) -> None:
        """Add one step's losses on some rows. multimask_output (M,): which are answered by the best of masks 1 to 3."""
        named: dict[str, Tensor] = {}
        if self.seen is None or not self.seen.alone:
            named = self._of_target(model, output, prompt, multimask_output, rows)
        if self.seen is not None:
            theirs = self.seen.losses(output, prompt, rows)
            theirs["total"] = theirs["total"] + named.get("total", 0)
            named |= theirs
        self.steps.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float32))
        for name, value in named.items():
            known = self.sums.get(name, torch.zeros_like(self.steps))
            self.sums[name] = known.index_add(0, rows, value.float())

    def remember(self, model: nn.Module, embedding: Tensor) -> None:
        """Add the loss of a tracked frame's conditioned embeddings (M, C, h, w), where a teacher has its own."""
        if self.seen is not None and self.seen.distil.memory:
            loss = self.seen.memory_loss(model, embedding)
            self.remembered = {"teacher_memory": loss, "total": self.seen.distil.memory * loss}

    def _of_target(
        self, model: nn.Module, output: DecoderOutput, prompt: Prompt, multimask_output: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        if self.soft is None:
            return self._upstream(model, output, multimask_output, rows)
        # one click is ambiguous, also where the model's spec prefers to answer it with the single mask
        taught = multimask_output | (points_of(prompt) == 1)
        void = None if self.ignored is None else self.ignored[rows]
        return step_losses(output.masks, output.iou, output.object_score, self.soft[rows], taught, self.weights, void)

    def _upstream(
        self, model: nn.Module, output: DecoderOutput, multimask_output: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        size = (self.target.shape[-2], self.target.shape[-1])
        named: dict[str, Tensor] = {}
        for flag in (True, False):
            index = torch.nonzero(multimask_output == flag)[:, 0]
            if not len(index):
                continue
            offer = model.select_masks(output.rows(index), multimask_output=flag)
            logits = resize(offer.logits, size)
            void = None if self.ignored is None else self.ignored[rows[index]]
            truth = self.target[rows[index]]
            losses = upstream_losses(logits, offer.iou, offer.object_score, truth, self.weights, void)
            for name, value in losses.items():
                named[name] = named.get(name, value.new_zeros(len(rows))).index_copy(0, index, value)
        return named

    def means(self) -> dict[str, Tensor]:
        """Each row's mean over its steps; Meta's losses are sums. Rows that were not taught have none."""
        found = dict(self.sums)
        if not self.weights.compat:
            found = {name: value / self.steps.clamp(min=1) for name, value in found.items()}
        return found | {name: value + found.get(name, 0) for name, value in self.remembered.items()}


def _like(flags: Tensor, value: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (value.ndim - 1))


def join_answers(parts: list[tuple[Tensor, MaskPrediction]]) -> MaskPrediction:
    """One answer for all rows from answers for some rows each: (rows, answer) pairs that cover every row once."""
    order = torch.argsort(torch.cat([rows for rows, _ in parts]))
    return MaskPrediction.join([answer for _, answer in parts]).rows(order)


def merge_answers(answer: MaskPrediction, better: MaskPrediction, rows: Tensor) -> MaskPrediction:
    """An answer with some rows replaced."""
    if len(rows) == len(answer.iou):
        return better
    pairs = zip(answer.values(), better.values())
    return MaskPrediction.only(*(old.index_copy(0, rows, new.to(old.dtype)) for old, new in pairs))


@contextmanager
def checkpointed_trunk(model: nn.Module) -> Iterator[None]:
    """While this lasts, the trunk forgets what its blocks computed, one by one, and computes it again for the gradient.

    Raises ValueError for a backbone without `blocks`.
    """
    blocks = blocks_of(model, "checkpoint_trunk")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
