"""Simulated users: which prompts objects get, first clicks, boxes, and correction clicks drawn from what went wrong.

Everything works on a batch of masks (M, H, W) at model size and draws from the `torch.Generator` that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2core.types import Label, Prompt

CELL = 4  # clicks are drawn coarse to fine: a cell of 4 x 4 pixels first, then a pixel in it


@dataclass(frozen=True)
class PromptPlan:
    """How often objects get which first prompt, and how many corrections follow. Drawn per object, not per batch."""

    box: float = 0.0  # share of objects prompted with a box instead of a click
    centre: float = 0.5  # share of clicks drawn towards the inside of the object instead of uniformly
    corrections: int = 0  # correction clicks after the first prompt, at most
    correct: float = 1.0  # probability that a step has corrections at all

    def first(self, masks: Tensor, generator: torch.Generator) -> Prompt:
        """The first prompt of each object; rows with a click get an ignored point besides when others have boxes."""
        count = masks.shape[0]
        clicks = sample_click(masks, generator, centre=self.centre)
        labels = torch.full((count, 1), int(Label.POSITIVE), dtype=torch.int32)
        if self.box == 0:
            return Prompt(clicks, labels)
        points = torch.cat([clicks, torch.zeros_like(clicks)], dim=1)
        labels = torch.cat([labels, torch.full_like(labels, int(Label.IGNORED))], dim=1)
        boxed = torch.rand(count, generator=generator) < self.box
        corners = sample_box(masks, generator)
        points = torch.where(boxed[:, None, None], corners, points)
        corner_labels = torch.tensor([int(Label.TOP_LEFT), int(Label.BOTTOM_RIGHT)], dtype=torch.int32)
        return Prompt(points, torch.where(boxed[:, None], corner_labels, labels))

    def steps(self, generator: torch.Generator) -> int:
        """The number of corrections in this step."""
        draw = torch.rand(2, generator=generator)
        if self.corrections == 0 or draw[0] >= self.correct:
            return 0
        return 1 + int(draw[1] * self.corrections)


def sample_click(regions: Tensor, generator: torch.Generator, *, centre: float = 0.0) -> Tensor:
    """One pixel of each region, (M, 1, 2) x, y in pixels; every pixel is equally likely, or inner ones more so.

    regions: (M, H, W) bool, H and W multiples of 4, none empty (an empty one gives an arbitrary pixel).
    centre: probability, per region, of weighing pixels by how deep inside the region they lie.
    """
    count, height, width = regions.shape
    rows, columns = height // CELL, width // CELL
    cells = regions.view(count, rows, CELL, columns, CELL).transpose(2, 3).reshape(count, rows * columns, CELL * CELL)
    weight = cells.float().mean(-1)
    if centre > 0:
        window = 2 * max(1, rows // 14) + 1
        depth = F.avg_pool2d(weight.view(count, 1, rows, columns), window, 1, window // 2).flatten(1) ** 4 * weight
        inner = torch.rand(count, 1, generator=generator) < centre
        weight = torch.where(inner, depth, weight)
    weight = weight + (weight.sum(1, keepdim=True) == 0)
    cell = torch.multinomial(weight, 1, generator=generator)
    inside = cells[torch.arange(count), cell[:, 0]].float()
    inside = inside + (inside.sum(1, keepdim=True) == 0)
    pixel = torch.multinomial(inside, 1, generator=generator)
    y = cell // columns * CELL + pixel // CELL
    x = cell % columns * CELL + pixel % CELL
    return torch.stack([x, y], dim=-1).float()


def sample_box(masks: Tensor, generator: torch.Generator, *, jitter: float = 0.1, limit: float = 20.0) -> Tensor:
    """Corner points (M, 2, 2) of each mask's box, every number moved by up to min(jitter * side, limit) pixels."""
    count, height, width = masks.shape
    across, down = masks.any(1), masks.any(2)
    left, right = across.float().argmax(1), width - 1 - across.flip(1).float().argmax(1)
    top, bottom = down.float().argmax(1), height - 1 - down.flip(1).float().argmax(1)
    box = torch.stack([left, top, right, bottom], dim=1).float()
    sides = torch.stack([right - left, bottom - top], dim=1).float().repeat(1, 2)
    move = (torch.rand(count, 4, generator=generator) * 2 - 1) * (sides * jitter).clamp(max=limit)
    box = torch.minimum((box + move).clamp(min=0), torch.tensor([width - 1, height - 1] * 2, dtype=torch.float32))
    return box.view(count, 2, 2)


def sample_correction(
    answer: Tensor, target: Tensor, generator: torch.Generator, *, centre: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The next click (M, 1, 2) and its label (M, 1): a pixel that is wrong, positive where the object was missed.

    answer, target: (M, H, W) bool. Where nothing is wrong, a positive click inside the target.
    """
    wrong = answer ^ target
    perfect = ~wrong.flatten(1).any(1)
    region = torch.where(perfect[:, None, None], target, wrong)
    clicks = sample_click(region, generator, centre=centre)
    x, y = clicks[:, 0, 0].long(), clicks[:, 0, 1].long()
    positive = target[torch.arange(len(target)), y, x] | perfect
    return clicks, positive.to(torch.int32)[:, None]
