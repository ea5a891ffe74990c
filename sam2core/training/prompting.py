"""Simulated users: which prompts objects get, first clicks, boxes, and correction clicks drawn from what went wrong.

Everything works on a batch of masks (M, H, W) at model size and takes its chances from `SeededRandom`, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.ops.masks import boxes
from sam2core.training.seeded_random import SeededRandom
from sam2core.types import Label, Multimask, Prompt

CELL = 4  # clicks are drawn coarse to fine: a cell of 4 x 4 pixels first, then a pixel in it
KIND, BOX, FRAMES, FIRST, CORRECTION, TAUGHT = range(6)  # tags of draws


@dataclass(frozen=True)
class Schedule:
    """In which order the frames of a clip are answered, which are prompted, and which are corrected how often."""

    prompted: tuple[int, ...]  # prompted before anything is tracked
    rest: tuple[int, ...]  # tracked, in this order
    corrections: dict[int, int]  # frame -> number of correction clicks

    @property
    def order(self) -> tuple[int, ...]:
        return (*self.prompted, *self.rest)


@dataclass(frozen=True)
class PromptPlan:
    """How often objects get which first prompt, and how many corrections follow.

    What an object is told is drawn for each object. Which frames are prompted and corrected is drawn for each step,
    so that the objects of a batch share their memories' layout and are computed together.
    """

    box: float = 0.0  # share of points prompts that are a box instead of a click
    mask: float = 0.0  # share of objects of clips that are prompted with their mask; images never are
    centre: float = 0.5  # share of clicks drawn towards the inside of the object instead of uniformly
    prompted: int = 1  # frames prompted before tracking, at most: the object's first, and others at random
    corrected: int = 1  # frames that get corrections, at most: the prompted ones, then others at random
    corrections: int = 0  # correction clicks on each such frame, at most
    vary: bool = True  # draw the number of corrections from 1 to `corrections`; False: always all of them
    correct: float = 1.0  # probability that a step has corrections at all
    between: bool = (
        True  # teach every correction; False: the first answer and the last, those between make the mask inputs
    )
    from_target: float = 0.0  # share of correction clicks drawn from the object instead of the error
    correct_masks: bool = True  # objects prompted with a mask get corrections on later frames, too
    taught: int = 0  # frames of a clip that are taught, the others are passed as in use, without a gradient; 0: all

    def __post_init__(self) -> None:
        if self.taught == 1 or self.taught < 0:
            raise ValueError(f"taught is 0 (all frames) or at least 2, the first and the last, not {self.taught}")

    def lessons(self, frames: int, draws: SeededRandom) -> list[int]:
        """Which of `frames` frames are taught: the first, the last, and others at random; for the whole step."""
        if not self.taught or self.taught >= frames:
            return list(range(frames))
        between = draws.shared(TAUGHT).permutation(frames - 2)[: self.taught - 2] + 1
        return sorted({0, frames - 1, *between.tolist()})

    def schedule(self, frames: int, entry: int, draws: SeededRandom, *, before: bool = True) -> Schedule:
        """The order of `frames` frames for objects that are first seen on frame `entry`.

        before: frames ahead of `entry` are answered as well, by a model that already knows the later prompt.
        """
        generator = draws.shared(FRAMES, entry)
        chance, share = generator.random(2)
        later = list(range(entry + 1, frames))
        drawn = int(generator.integers(1, min(self.prompted, 1 + len(later)), endpoint=True))
        prompted = (entry, *generator.permutation(later)[: drawn - 1].astype(int).tolist())
        rest = tuple(frame for frame in range(0 if before else entry, frames) if frame not in prompted)
        if self.corrections == 0 or chance >= self.correct:
            return Schedule(prompted, rest, {})
        most = max(drawn, min(self.corrected, frames))
        count = int(generator.integers(drawn, most, endpoint=True))
        others = [frame for frame in rest if frame > entry]
        corrected = (*prompted, *generator.permutation(others)[: count - drawn].astype(int).tolist())
        clicks = 1 + int(share * self.corrections) if self.vary else self.corrections
        return Schedule(prompted, rest, dict.fromkeys(corrected, clicks))

    def masked(self, draws: SeededRandom, *, frames: int) -> Tensor:
        """Which rows (M,) are prompted with their mask."""
        share = self.mask if frames > 1 else 0.0
        return draws.uniform(KIND)[:, 0] < share

    def first(self, masks: Tensor, draws: SeededRandom) -> Prompt:
        """The first points of each object; rows with a click get an ignored point besides when others have boxes.

        An object that is not there gets a negative click anywhere.
        """
        visible = masks.flatten(1).any(1)
        clicks = sample_click(torch.where(visible[:, None, None], masks, True), draws.at(FIRST), centre=self.centre)
        labels = visible.to(torch.int32)[:, None]
        if self.box == 0:
            return Prompt(clicks, labels)
        points = torch.cat([clicks, torch.zeros_like(clicks)], dim=1)
        labels = torch.cat([labels, torch.full_like(labels, int(Label.IGNORED))], dim=1)
        boxed = (draws.uniform(BOX)[:, 0] < self.box).to(masks.device) & visible
        points = torch.where(boxed[:, None, None], sample_box(masks, draws.at(FIRST)), points)
        corners = torch.tensor([int(Label.TOP_LEFT), int(Label.BOTTOM_RIGHT)], dtype=torch.int32, device=masks.device)
        return Prompt(points, torch.where(boxed[:, None], corners, labels), ragged=True)


def points_of(prompt: Prompt) -> Tensor:
    """How many points each row (B,) of a prompt has."""
    return ((prompt.labels != Label.IGNORED) & (prompt.labels != Label.PADDING)).sum(1)


def answered_by_three(multimask: Multimask, prompt: Prompt, *, tracking: bool) -> Tensor:
    """Which rows (B,) of a prompt are answered with the best of masks 1 to 3."""
    counts = points_of(prompt).tolist()
    answers = {count: multimask.applies(count, tracking=tracking) for count in set(counts)}
    return torch.tensor([answers[count] for count in counts], device=prompt.points.device)


def sample_click(regions: Tensor, draws: SeededRandom, *, centre: float = 0.0) -> Tensor:
    """One pixel of each region, (M, 1, 2) x, y in pixels; every pixel is equally likely, or inner ones more so.

    regions: (M, H, W) bool, H and W multiples of 4, none empty (an empty one gives an arbitrary pixel).
    centre: probability, per region, of weighing pixels by how deep inside the region they lie.
    """
    count, height, width = regions.shape
    rows, columns = height // CELL, width // CELL
    chance = draws.uniform(10, count=3).to(regions.device)
    cells = regions.view(count, rows, CELL, columns, CELL).transpose(2, 3).reshape(count, rows * columns, CELL * CELL)
    weight = cells.float().mean(-1)
    if centre > 0:
        window = 2 * max(1, rows // 14) + 1
        depth = F.avg_pool2d(weight.view(count, 1, rows, columns), window, 1, window // 2).flatten(1) ** 4 * weight
        weight = torch.where(chance[:, :1] < centre, depth, weight)
    cell = _pick(weight, chance[:, 1:2])
    pixel = _pick(cells[torch.arange(count, device=regions.device), cell[:, 0]].float(), chance[:, 2:3])
    y = cell // columns * CELL + pixel // CELL
    x = cell % columns * CELL + pixel % CELL
    return torch.stack([x, y], dim=-1).float()


def _pick(weight: Tensor, chance: Tensor) -> Tensor:
    """The index (M, 1) at which the cumulated weights (M, K) pass a share `chance` (M, 1) of their sum."""
    total = weight.cumsum(1)
    index = torch.searchsorted(total, chance * total[:, -1:], right=True)
    # rounding may reach the end; an empty row does
    last = (weight.shape[1] - 1 - (weight > 0).flip(1).float().argmax(1, keepdim=True)).clamp(min=0)
    return torch.minimum(index, last)


def sample_box(masks: Tensor, draws: SeededRandom, *, jitter: float = 0.1, limit: float = 20.0) -> Tensor:
    """Corner points (M, 2, 2) of each mask's box, every number moved by up to min(jitter * side, limit) pixels."""
    count, height, width = masks.shape
    box = boxes(masks).float()
    sides = (box[:, 2:] - box[:, :2]).repeat(1, 2)
    chance = draws.uniform(11, count=4).to(masks.device)
    move = (chance * 2 - 1) * (sides * jitter).clamp(max=limit)
    box = torch.minimum((box + move).clamp(min=0), box.new_tensor([width - 1, height - 1] * 2))
    return box.view(count, 2, 2)


def sample_correction(
    answer: Tensor, target: Tensor, draws: SeededRandom, *, centre: float = 0.5, from_target: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The next click (M, 1, 2) and its label (M, 1): a pixel that is wrong, positive where the object was missed.

    answer, target: (M, H, W) bool. Where nothing is wrong, and in a share `from_target` of cases, a positive click
    inside the target; where there is no target either, a negative click anywhere.
    """
    wrong = answer ^ target
    chance = draws.uniform(12)[:, 0].to(target.device)
    inside = ~wrong.flatten(1).any(1) | (chance < from_target)
    region = torch.where(inside[:, None, None], target, wrong)
    empty = ~region.flatten(1).any(1)
    clicks = sample_click(torch.where(empty[:, None, None], True, region), draws, centre=centre)
    x, y = clicks[:, 0, 0].long(), clicks[:, 0, 1].long()
    positive = target[torch.arange(len(target), device=target.device), y, x]
    return clicks, positive.to(torch.int32)[:, None]
