"""Distillation: a student is taught what a larger model sees in the same frames and answers to the same prompts.

The teacher is a model like any other and is never trained. It sees the frames that the student sees, is prompted where
the student is prompted, corrected where the student is corrected, and tracks by its own memory and its own policy; so a
student of any architecture learns from a teacher of any other, from images and clips that nobody has labelled.
Sources: Zhou et al. 2025, "EdgeTAM" (embeddings and memory-conditioned features), Zhou et al. 2023, "EdgeSAM" (masks
for prompts that follow the student's errors).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.checkpoints import files
from sam2core.memory.bank import MemoryBank
from sam2core.ops.masks import resize
from sam2core.ops.position import sine_grid
from sam2core.training.prompting import answered_by_three
from sam2core.types import DecoderOutput, ImageFeatures, Keep, MaskPrediction, Prompt

ADAPTERS = "distil_adapters"
"""The student's part that is there only while it is taught."""
TOP = 16  # the stride of the embedding
TINY = 1e-6  # variance below which a map counts as plain


@dataclass(frozen=True)
class Distil:
    """What a student learns of its teacher: weights of the parts, each per object.

    embedding: the maps that masks are read from, level by level; memory: the embedding of tracked frames, conditioned
    on what each remembers; masks, iou, object_score: what the decoders put out, mask by mask.
    """

    embedding: float = 1.0
    memory: float = 1.0
    masks: float = 1.0
    others: float = 0.2  # of a mask that the teacher would not show for the prompt, beside 1 for those it would
    iou: float = 0.5
    object_score: float = 0.05
    levels: tuple[int, ...] = ()  # strides of the maps that are compared; (): all that both models have
    labels: bool = False  # teach the data's own masks, too; False: they only say where prompts may lie
    size: int = 0  # pixels of the square that the teacher sees; 0: what the student sees

    def __post_init__(self) -> None:
        for name in ("embedding", "memory", "masks", "others", "iou", "object_score"):
            if getattr(self, name) < 0:
                raise ValueError(f"distil.{name} is a weight of 0 or more, not {getattr(self, name)}")
        if self.size < 0 or self.size % 32:
            raise ValueError(f"distil.size is 0 (as the student) or a multiple of 32 pixels, not {self.size}")


def levels_of(model: Any, features: ImageFeatures, height: int) -> dict[int, Tensor]:
    """The maps of an image of `height` pixels that a model's masks are read from, by stride."""
    finer = features.high_res_features
    finer = model.mask_decoder.own_features(finer) if hasattr(model.mask_decoder, "own_features") else finer
    return {height // each.shape[-2]: each for each in (*finer, features.embedding)}


@torch.no_grad()
def widths_of(model: Any, size: int) -> dict[int, int]:
    """The channels of these maps by stride. Works on the meta device."""
    training = model.training
    found = levels_of(model, model.eval().encode(torch.zeros(1, 3, size, size, device=model.device)), size)
    model.train(training)
    return {stride: each.shape[1] for stride, each in found.items()}


def add_distil_adapters(
    student: nn.Module, teacher: nn.Module, distil: Distil, *, size: int, memory: bool, seed: int
) -> None:
    """Give the student a linear map to its teacher's width for every level that is compared and differs in width.

    memory: clips are tracked, so that conditioned embeddings are compared, too.
    Raises ValueError for a level that one of the two lacks.
    """
    mine, theirs = widths_of(student, size), widths_of(teacher, distil.size or size)
    shared = sorted(set(mine) & set(theirs))
    for level in distil.levels:
        if level not in shared:
            lacking = "student" if level not in mine else "teacher"
            raise ValueError(
                f"distil.levels: the {lacking} has no map of stride {level} that masks are read from; "
                f"both have {', '.join(map(str, shared))}"
            )
    wanted = {str(level): (mine[level], theirs[level]) for level in distil.levels or shared}
    if memory and distil.memory:
        wanted["memory"] = (mine[TOP], theirs[TOP])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {
            name: nn.Identity() if own == other else nn.Conv2d(own, other, 1) for name, (own, other) in wanted.items()
        }
    like = next(student.parameters())
    setattr(student, ADAPTERS, nn.ModuleDict(layers).to(like.device, like.dtype))


def remove_distil_adapters(model: nn.Module) -> nn.Module:
    """Take out, in place, what only the teacher needed; without any, nothing."""
    if hasattr(model, ADAPTERS):
        delattr(model, ADAPTERS)
    return model


def distance(own: Tensor, theirs: Tensor) -> Tensor:
    """The mean squared distance of maps (B, C, h, w) from a teacher's (B, C, h', w'), over its variance: (B,).

    Each image has a variance of its own, so that what others are in the batch changes nothing.
    """
    theirs = resize(theirs.float(), (own.shape[-2], own.shape[-1]))
    spread = theirs.flatten(1).var(1, correction=0).clamp(min=TINY)
    return (own.float() - theirs).square().flatten(1).mean(1) / spread


def soft_mask_loss(logits: Tensor, theirs: Tensor) -> Tensor:
    """How far masks are from a teacher's, both logits (..., h, w): (...), 0 where they are the same.

    The mean Kullback-Leibler divergence of a pixel, and a soft Dice distance that is smallest for equal probabilities.
    """
    mine, goal = logits.sigmoid(), theirs.sigmoid()
    own = F.binary_cross_entropy_with_logits(theirs, goal, reduction="none")
    divergence = F.binary_cross_entropy_with_logits(logits, goal, reduction="none") - own
    overlap = 2 * (mine * goal).sum((-2, -1)) + 1
    total = mine.square().sum((-2, -1)) + goal.square().sum((-2, -1)) + 1
    return divergence.mean((-2, -1)) + 1 - overlap / total


class FeatureCache:
    """What a teacher sees in images, in a folder: one file each, fp16, mapped into memory when it is read.

    A file's name is made of the image's pixels, the teacher's weights and the size, so nothing is ever out of date,
    and several runs and processes may share a folder. Files appear whole or not at all.
    """

    def __init__(self, folder: str | Path, teacher: Any):
        told = teacher.fingerprint()
        told.pop("image_size")
        self.folder = Path(folder)
        self.teacher = json.dumps(told, sort_keys=True).encode()

    def path(self, picture: Tensor) -> Path:
        """Where the features of an image (3, H, W) uint8, as the teacher is shown it, lie."""
        shape = str(tuple(picture.shape)).encode()
        key = hashlib.blake2b(self.teacher + shape + picture.cpu().numpy().tobytes(), digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, picture: Tensor) -> tuple[Tensor, ...] | None:
        """The features of an image, None when they are not there yet. Raises FileError for a damaged file."""
        path = self.path(picture)
        if not path.exists():
            return None
        state, _ = files.read(path)
        return tuple(state[name].to(picture.device) for name in sorted(state))

    def write(self, picture: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Keep the maps of an image; what `read` will give."""
        kept = tuple(each.half() for each in maps)
        path = self.path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.save_tensors(path, {f"{n}": each.cpu().contiguous() for n, each in enumerate(kept)}, force=True)
        return kept


@dataclass(frozen=True)
class TeacherModel:
    """A model that teaches another, and the folder that keeps its features, if one does."""

    model: nn.Module
    cache: Path | None = None


class Teacher:
    """A model that is asked and never trained, with a rollout of its own to be asked through."""

    def __init__(self, rollout: Any, distil: Distil, cache: FeatureCache | None = None):
        self.rollout, self.distil, self.cache = rollout, distil, cache
        self.model: Any = rollout.model.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> ImageFeatures:
        """Features of the student's images (B, 3, H, W) uint8; with a cache they are rounded to fp16, new or known.

        An image that is not in the cache is encoded by itself, so that its features do not depend on the others.
        """
        size = self.distil.size
        if size and pictures.shape[-2:] != (size, size):
            grown = F.interpolate(pictures.float(), size=(size, size), mode="bilinear", antialias=True)
            pictures = grown.round().clamp(0, 255).to(torch.uint8)
        self.rollout.resize((pictures.shape[-2], pictures.shape[-1]))
        if self.cache is None:
            return self.rollout.encode(pictures)
        return ImageFeatures.join([self._kept(each) for each in pictures])

    def _kept(self, picture: Tensor) -> ImageFeatures:
        assert self.cache is not None
        maps = self.cache.read(picture)
        if maps is None:
            new = self.rollout.encode(picture[None])
            maps = self.cache.write(picture, (new.embedding, *new.high_res_features))
        embedding, *finer = (each.to(self.model.dtype) for each in maps)
        grid = (embedding.shape[-2], embedding.shape[-1])
        position = sine_grid(grid, embedding.shape[1], embedding.device).to(embedding.dtype)
        return ImageFeatures(embedding=embedding, position=position, high_res_features=tuple(finer))

    def compare(
        self, student: Any, own: ImageFeatures, theirs: ImageFeatures, counted: Tensor, taught: tuple[int, ...]
    ) -> Tensor:
        """How far the student's maps are from its teacher's: the mean over levels and frames, summed over objects.

        own, theirs: features of all frames, video by video. counted (B, N): the objects of each video.
        """
        clips, frames = len(counted), own.batch // len(counted)
        rows = torch.tensor([clip * frames + frame for clip in range(clips) for frame in taught])
        rows = rows.to(own.embedding.device)
        mine = levels_of(student, own.rows(rows), student.image_size[0])
        goal = levels_of(self.model, theirs.rows(rows), self.model.image_size[0])
        layers = {int(name): layer for name, layer in getattr(student, ADAPTERS).items() if name != "memory"}
        each = torch.stack([distance(layer(mine[level]), goal[level]) for level, layer in layers.items()]).mean(0)
        return (each.view(clips, len(taught)).mean(1) * counted.sum(1).to(each)).sum()

    def follow(self, group: Any, features: ImageFeatures) -> Following:
        """The teacher's own way through a group's clip, given its features of all frames."""
        return Following(self, group, features)


class Following:
    """A teacher that goes through a clip beside its student: its own memories of the same objects."""

    def __init__(self, teacher: Teacher, group: Any, features: ImageFeatures):
        self.teacher, self.group = teacher, replace(group, features=features)
        self.policy = teacher.rollout.policy
        self.bank, self.state = MemoryBank(), self.policy.start()
        self.seen: SeenFrame | None = None

    @torch.no_grad()
    def look(
        self,
        frame: int,
        prompt: Prompt | None,
        target: Tensor,
        given: Tensor,
        length: int | None,
        size: tuple[int, int],
    ) -> SeenFrame:
        """Answer a frame first: a prompt for a student of this size, or None to track it.

        given (M,): the rows that are prompted with their mask, which is the target (M, H, W).
        """
        rollout, model = self.teacher.rollout, self.teacher.model
        recall = None
        if prompt is None:
            recall = self.policy.recall(self.bank, frame, backwards=False, length=length, state=self.state)
            asked = model.tracking_prompt([recall])
        else:
            asked = fitted(prompt, size, model)
        features = self.group.on(frame)
        embedding = model.condition(features, recall)
        shown = resize(target[:, None].float(), model.image_size)[:, 0] > 0.5
        heard = Heard()
        answer = rollout._first(features, embedding, asked, shown, given, heard, recall is not None, True)
        assert answer is not None
        self.seen = SeenFrame(self.teacher, features, embedding, answer, heard, (target.shape[-2], target.shape[-1]))
        return self.seen

    @torch.no_grad()
    def memorize(self, frame: int, *, hard: bool, trusted: bool) -> None:
        """Remember the frame that was looked at last, as the teacher answered it first."""
        assert self.seen is not None
        features, answer = self.group.on(frame), self.seen.answer
        memory = self.teacher.model.memorize(features, answer, frame=frame, hard=hard)
        keep = Keep.PROMPTED if trusted else self.policy.keep(answer, memory, self.bank, self.state)
        if keep is not None:
            self.bank.put(memory, keep)


class Heard:
    """The decoder's output of a first answer, and which of its masks answer; the place of a frame's losses."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, DecoderOutput, Tensor]] = []

    def add(self, model: Any, output: DecoderOutput, prompt: Prompt, multimask_output: Tensor, rows: Tensor) -> None:
        self.steps.append((rows, output, multimask_output))


class SeenFrame:
    """What the teacher says of one frame."""

    def __init__(
        self,
        teacher: Teacher,
        features: ImageFeatures,
        embedding: Tensor,
        answer: MaskPrediction,
        heard: Heard,
        size: tuple[int, int],
    ):
        self.teacher, self.features, self.embedding, self.answer = teacher, features, embedding, answer
        self.heard, self.size = heard, size
        self.target = resize(answer.logits.float(), size)[:, 0] > 0
        """The teacher's first answer (M, H, W), at the student's size: what corrections lead to."""

    @property
    def distil(self) -> Distil:
        return self.teacher.distil

    @property
    def alone(self) -> bool:
        """Whether nothing is taught but what the teacher says."""
        return not self.distil.labels

    def losses(self, output: DecoderOutput, prompt: Prompt, rows: Tensor) -> dict[str, Tensor]:
        """The named losses of a student's answer to a prompt for some rows, "total" among them.

        A prompt with points and a mask input is a
        correction, for which the teacher is asked anew, with the student's mask as its own; others it has answered.
        """
        distil = self.distil
        corrected = prompt.mask_input is not None and prompt.points.shape[1] > 0
        theirs, several = self._again(prompt, rows) if corrected else self._first(rows)
        goal = resize(theirs.masks.float(), (output.masks.shape[-2], output.masks.shape[-1]))
        shown = torch.cat([~several[:, None], several[:, None].expand(-1, theirs.masks.shape[1] - 1)], 1).float()
        weight = (shown + distil.others * (1 - shown)) / shown.sum(1, keepdim=True)
        there = (theirs.object_score[:, 0] > 0).float()
        named = {
            "teacher_mask": (soft_mask_loss(output.masks, goal) * weight).sum(1) * there,
            "teacher_iou": ((output.iou - theirs.iou.float()).square() * weight).sum(1) * there,
            "teacher_object_score": F.binary_cross_entropy_with_logits(
                output.object_score[:, 0], theirs.object_score[:, 0].float().sigmoid(), reduction="none"
            ),
        }
        weights = (distil.masks, distil.iou, distil.object_score)
        named["total"] = sum((w * each for w, each in zip(weights, named.values())), torch.zeros_like(there))
        return named

    def memory_loss(self, student: Any, embedding: Tensor) -> Tensor:
        """How far the student's conditioned embeddings (M, C, h, w) are from the teacher's: (M,)."""
        return distance(getattr(student, ADAPTERS)["memory"](embedding), self.embedding)

    def _first(self, rows: Tensor) -> tuple[DecoderOutput, Tensor]:
        ((known, output, several),) = self.heard.steps
        places = torch.searchsorted(known, rows)
        return output.rows(places), several[places]

    @torch.no_grad()
    def _again(self, prompt: Prompt, rows: Tensor) -> tuple[DecoderOutput, Tensor]:
        rollout, model = self.teacher.rollout, self.teacher.model
        asked = fitted(prompt, self.size, model)
        output = rollout._decode(self.features.rows(rows), self.embedding[rows], asked)
        return output, answered_by_three(model.multimask, asked, tracking=False)


def fitted(prompt: Prompt, size: tuple[int, int], model: Any) -> Prompt:
    """A prompt for images of one size (H, W) as the same for a model of another."""
    points = prompt.points
    if model.image_size != size:
        points = points * points.new_tensor([model.image_size[1] / size[1], model.image_size[0] / size[0]])
    mask_input = prompt.mask_input
    if mask_input is not None:
        mask_input = resize(mask_input.detach(), model.prompt_encoder.mask_input_size)
    return replace(prompt, points=points, mask_input=mask_input)


def check_teacher(teacher: Any, distil: Distil, *, tracks: bool, dense: bool) -> None:
    """Raise ValueError, in words, where a teacher cannot teach by such a recipe. A model on the meta device will do."""
    if tracks and teacher.image_only:
        raise ValueError(
            "the teacher's weights hold no memory parts, so it cannot teach clips; set `frames: 1` in all stages, or "
            "name another teacher"
        )
    if dense and not distil.labels:
        raise ValueError(
            "a stage with `dense` above 0 teaches the data's masks; set distil.labels to true, or dense to 0"
        )
    if not any((distil.embedding, distil.memory, distil.masks, distil.iou, distil.object_score)):
        raise ValueError("all weights of `distil` are 0, so nothing would be learned of the teacher")
