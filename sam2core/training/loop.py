"""One readable loop: recipe in, weights out. A killed run goes on from its last checkpoint as if nothing had happened.

Everything random is drawn from (seed, step): no generator has to be saved, and no worker count changes the result.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, IterableDataset

from sam2core.training.augment import Augment, Mixture
from sam2core.training.clips import ClipBatch, collate
from sam2core.training.initialise import localise, look
from sam2core.training.losses import LossWeights
from sam2core.training.optim import Average, Optim, learning_rate, optimiser
from sam2core.training.prompting import PromptPlan
from sam2core.training.rollout import Rollout, resize_model

logger = logging.getLogger(__name__)

IMAGE_PARTS = ("backbone.", "neck.", "prompt_encoder.", "mask_decoder.", "memory_readout.no_memory")
ABORT_AFTER = 3  # non-finite losses in a row


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the key."""


@dataclass(frozen=True)
class Source:
    """One collection of labelled images: where it lies below the data folder, how it is read, how often it is drawn."""

    path: str
    reader: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A stretch of steps with one picture size and one way of prompting."""

    name: str
    steps: int
    size: int = 256
    batch: int = 8
    objects: int = 8
    min_area: float = 0.006  # share of the picture below which an object is not asked for
    dense: float = 0.0  # weight of the dense supervision of the trunk
    lr: float = 1.0  # multiplies the schedule
    look: bool = False  # begin by turning the decoder's attention to the clicked place; see `initialise.look`
    prompts: PromptPlan | None = PromptPlan()  # None: dense supervision only
    losses: LossWeights = LossWeights()


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on, apart from the data itself."""

    model: str
    sources: tuple[Source, ...]
    stages: tuple[Stage, ...]
    seed: int = 0
    start: str = "fresh"  # "fresh": initialise to look at the click; "weights": go on from the model's weights
    side: int = 640  # longer side of the decoded pictures
    freeze: tuple[str, ...] = ()
    augment: Augment = Augment()
    optim: Optim = Optim()

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def begins(self, step: int) -> bool:
        """Whether a stage begins with this step."""
        starts = [0]
        for stage in self.stages[:-1]:
            starts.append(starts[-1] + stage.steps)
        return step in starts

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Recipe:
        """A recipe from the plain tree of a YAML file. Raises RecipeError for keys it does not know."""
        return _read(cls, tree, "")


_NESTED: dict[tuple[type, str], type] = {
    (Recipe, "augment"): Augment,
    (Recipe, "optim"): Optim,
    (Recipe, "sources"): Source,
    (Recipe, "stages"): Stage,
    (Stage, "prompts"): PromptPlan,
    (Stage, "losses"): LossWeights,
}


def _read(kind: type, tree: Mapping[str, Any], where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise RecipeError(f"recipe: {where or 'the file'} must be a mapping, got {tree!r}")
    known = {item.name for item in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise RecipeError(f"recipe: unknown key {place!r}; allowed there: {', '.join(sorted(known))}")
        nested = _NESTED.get((kind, key))
        if nested and isinstance(value, (list, tuple)):
            value = tuple(_read(nested, each, f"{place}[{number}]") for number, each in enumerate(value))
        elif nested and value is not None:
            value = _read(nested, value, place)
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise RecipeError(f"recipe: {where or 'the file'}: {error}") from error


class Batches(IterableDataset):
    """The batches of all steps from `start` on, each a function of the recipe's seed and the step alone.

    With several processes each takes its share of a batch's rows.
    """

    def __init__(self, mixture: Mixture, recipe: Recipe, start: int, *, rank: int = 0, world: int = 1):
        self.mixture, self.recipe, self.start = mixture, recipe, start
        self.rank, self.world = rank, world
        for stage in recipe.stages:
            if stage.batch % world:
                raise RecipeError(f"stage {stage.name!r}: batch {stage.batch} cannot be split over {world} processes")

    def __iter__(self) -> Iterator[ClipBatch]:
        for step in range(self.start, self.recipe.steps):
            stage = self.recipe.stage_at(step)
            yield collate(
                [
                    self.mixture.sample(step, row, size=stage.size, objects=stage.objects, min_area=stage.min_area)
                    for row in range(self.rank, stage.batch, self.world)
                ]
            )


@dataclass(frozen=True)
class Progress:
    """What the loop reports after each step."""

    step: int
    steps: int
    stage: str
    seconds: float  # since this process began the loop
    losses: dict[str, float]
    validation: dict[str, float] | None = None


def train(
    model: nn.Module,
    recipe: Recipe,
    mixture: Mixture,
    folder: str | Path,
    *,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    validate_every: int = 500,
    save_every: int = 200,
    report: Callable[[Progress], None] | None = None,
    workers: int = 1,
    stop_after: int | None = None,
) -> nn.Module:
    """Train `model` in place by the recipe and return it with the averaged weights.

    folder: holds `checkpoint.pt` (written every `save_every` steps and at the end; a run that finds one goes on from
    it) and `metrics.csv`. validate: called with the averaged model, its numbers go to the CSV. stop_after: end this
    process after so many steps, with a checkpoint. Raises FloatingPointError after three non-finite losses in a row.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    fresh = not checkpoint.exists()
    if fresh and recipe.start == "fresh":
        torch.manual_seed(recipe.seed)
        localise(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(IMAGE_PARTS))
    update = optimiser(model, recipe.optim, freeze=recipe.freeze)
    average = Average(model, recipe.optim.ema)
    step = 0 if fresh else _resume(checkpoint, model, update, average)

    shared = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
    rollout = Rollout(model)
    model.train()
    batches = Batches(mixture, recipe, step, rank=rank, world=world)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    log = _Log(folder / "metrics.csv") if rank == 0 else None
    parameters = [parameter for group in update.param_groups for parameter in group["params"]]
    began, failures, last = time.monotonic(), 0, recipe.steps
    if stop_after is not None:
        last = min(last, step + stop_after)
    for batch in loader:
        if step >= last:
            break
        stage = recipe.stage_at(step)
        resize_model(model, stage.size)
        rate = stage.lr * learning_rate(step, recipe.steps, recipe.optim)
        for group in update.param_groups:
            group["lr"] = rate
        if stage.look and recipe.begins(step):
            _look(model, rollout, batch, recipe.seed + step, world)
            average = Average(model, recipe.optim.ema)
        seed = ((recipe.seed << 32) + step) << 8
        corrections = stage.prompts.steps(torch.Generator().manual_seed(seed)) if stage.prompts else 0
        generator = torch.Generator().manual_seed(seed + 1 + rank)
        losses = rollout(
            batch, stage.prompts, stage.losses, dense=stage.dense, corrections=corrections, generator=generator
        )
        named = {name: float(value.detach()) for name, value in losses.items()}
        for parameter in parameters:
            parameter.grad = None
        losses["total"].backward()
        if world > 1:
            _share(parameters, named, world)
        if math.isfinite(named["total"]):
            failures = 0
            named["gradient"] = float(nn.utils.clip_grad_norm_(parameters, recipe.optim.clip))
            if math.isfinite(named["gradient"]):
                update.step()
                average.update(model)
        else:
            failures += 1
            logger.warning("step %d: loss is %s on %s; step skipped", step, named, batch.sources)
            if failures == ABORT_AFTER:
                raise FloatingPointError(f"{ABORT_AFTER} non-finite losses in a row, the last at step {step}: {named}")
        step += 1
        numbers = None
        if rank == 0 and validate is not None and (step % validate_every == 0 or step == recipe.steps):
            numbers = _validated(model, average, validate)
        progress = Progress(step, recipe.steps, stage.name, time.monotonic() - began, named, numbers)
        if log is not None:
            log.add(progress, rate)
        if rank == 0 and report is not None:
            report(progress)
        if rank == 0 and (step % save_every == 0 or step == last):
            _save(checkpoint, model, update, average, step, recipe)
    model.load_state_dict(average.weights)
    return model.eval()


def _look(model: nn.Module, rollout: Rollout, batch: ClipBatch, seed: int, world: int) -> None:
    """Turn the decoder's attention to the clicked place, equally in all processes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        look(model, rollout.encode(batch.frames[:, 0])[1])
        if world > 1:
            for parameter in model.parameters():
                distributed.broadcast(parameter, 0)


def _share(parameters: list[nn.Parameter], named: dict[str, float], world: int) -> None:
    """Average gradients and losses over the processes of this run, in one exchange."""
    parameters = [each for each in parameters if each.grad is not None]
    flat = torch.cat([*(each.grad.flatten() for each in parameters), torch.tensor(list(named.values()))])  # type: ignore[union-attr]
    distributed.all_reduce(flat)
    flat /= world
    offset = 0
    for parameter in parameters:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    named.update(zip(named, flat[offset:].tolist()))


def _validated(
    model: nn.Module, average: Average, validate: Callable[[nn.Module], dict[str, float]]
) -> dict[str, float]:
    """Numbers of the averaged weights; the model gets its own back afterwards."""
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    size = model.image_size
    model.load_state_dict(average.weights)
    model.eval()
    try:
        return validate(model)
    finally:
        model.load_state_dict(own)
        model.train()
        resize_model(model, size[0])  # type: ignore[index]


def _save(
    path: Path, model: nn.Module, update: torch.optim.Optimizer, average: Average, step: int, recipe: Recipe
) -> None:
    """Write the whole state next to its final name, then move it there: a checkpoint is never half written."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimiser": update.state_dict(),
        "average": average.state(),
        "recipe": asdict(recipe),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _resume(path: Path, model: nn.Module, update: torch.optim.Optimizer, average: Average) -> int:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    update.load_state_dict(state["optimiser"])
    average.load(state["average"])
    return int(state["step"])


def averaged(checkpoint: str | Path) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint of a run, by parameter name."""
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return {name.removeprefix("weights."): value for name, value in state["average"].items() if name != "count"}


class _Log:
    """metrics.csv: one row per step, columns fixed by the names below so that resumed runs append."""

    COLUMNS = (
        "step",
        "stage",
        "seconds",
        "lr",
        "total",
        "mask",
        "dense",
        "dense_iou",
        "spread",
        "iou",
        "presence",
        "gradient",
        "validation",
    )

    def __init__(self, path: Path):
        self.path = path
        if not path.exists():
            with open(path, "w", newline="") as file:
                csv.writer(file).writerow(self.COLUMNS)

    def add(self, progress: Progress, rate: float) -> None:
        validation = " ".join(f"{name}={value:.4f}" for name, value in (progress.validation or {}).items())
        values: dict[str, Any] = {
            "step": progress.step,
            "stage": progress.stage,
            "seconds": f"{progress.seconds:.1f}",
            "lr": f"{rate:.3e}",
            "validation": validation,
            **{name: f"{value:.5f}" for name, value in progress.losses.items()},
        }
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([values.get(column, "") for column in self.COLUMNS])
