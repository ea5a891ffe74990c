"""One readable loop: recipe in, weights out. A killed run goes on from its last checkpoint as if nothing had happened.

Everything random is drawn from (seed, step, row): no generator has to be saved, and neither the number of workers nor
that of processes nor the pieces that a batch is computed in change the result.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, IterableDataset

from sam2core.training.adapters import add_adapters, merge_adapters, merged
from sam2core.training.augment import Mixture
from sam2core.training.clips import ClipBatch, collate
from sam2core.training.initialise import localise, look
from sam2core.training.optim import Average, freeze, learning_rate, optimiser
from sam2core.training.recipe import Recipe, RecipeError, Stage
from sam2core.training.rollout import Rollout, checkpointed_trunk, resize_model

logger = logging.getLogger(__name__)

IMAGE_PARTS = ("backbone.", "neck.", "prompt_encoder.", "mask_decoder.", "memory_readout.no_memory")
ABORT_AFTER = 3  # non-finite losses in a row
STILL = 40  # tag of draws


def layout(recipe: Recipe, step: int) -> tuple[Stage, int, int, int]:
    """A step's stage, and the frames, clips and objects a clip of its batch."""
    stage = recipe.stage_at(step)
    stills = stage.stills
    if stills and np.random.default_rng([recipe.seed, step, STILL]).random() < stills.share:
        return stage, 1, stills.batch, stills.objects
    return stage, stage.frames, stage.batch, stage.objects


class Batches(IterableDataset):
    """The batches of all steps from `start` on, each a function of the recipe's seed and the step alone.

    With several processes each takes its share of a batch's rows.
    """

    def __init__(self, mixture: Mixture, recipe: Recipe, start: int, *, rank: int = 0, world: int = 1):
        self.mixture, self.recipe, self.start = mixture, recipe, start
        self.rank, self.world = rank, world
        pieces = world * recipe.optim.accumulate
        for stage in recipe.stages:
            for batch in (stage.batch, *([stage.stills.batch] if stage.stills else [])):
                if batch % pieces:
                    raise RecipeError(
                        f"stage {stage.name!r}: batch {batch} cannot be split over {world} processes "
                        f"and optim.accumulate={recipe.optim.accumulate}"
                    )

    def __iter__(self) -> Iterator[ClipBatch]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # the loader asks its workers in turn
        for step in range(self.start + worker, self.recipe.steps, workers):
            stage, frames, batch, objects = layout(self.recipe, step)
            rows = range(self.rank, batch, self.world)
            clips = [
                self.mixture.sample(step, row, size=stage.size, objects=objects, min_area=stage.min_area, frames=frames)
                for row in rows
            ]
            yield collate(clips, rows, objects)


@dataclass(frozen=True)
class Progress:
    """What the loop reports after each step."""

    step: int
    steps: int
    stage: str
    seconds: float  # since this process began the loop
    losses: dict[str, float]
    validation: dict[str, float] | None = None
    rate: float = 0.0
    frames: int = 0  # computed in this step by all processes


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
    """Train `model` in place, where it is, by the recipe and return it with the averaged weights.

    folder: holds `checkpoint.pt` (written every `save_every` steps and at the end; a run that finds one goes on from
    it) and `metrics.csv`. validate: called with the averaged model, its numbers go to the CSV. stop_after: end this
    process after so many steps, with a checkpoint. Raises FloatingPointError after three non-finite losses in a row;
    what led to each is written to `nonfinite_STEP.json` first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    fresh = not checkpoint.exists()
    if fresh and recipe.start == "fresh":
        torch.manual_seed(recipe.seed)
        localise(model)
    _select(model, recipe)
    update = optimiser(model, recipe.optim)
    average = Average(model, recipe.optim.ema)
    step = 0 if fresh else _resume(checkpoint, model, update, average)

    shared = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
    rollout = Rollout(
        model, memory=recipe.memory, precision=recipe.precision, checkpoint_decoder=recipe.checkpoint_decoder
    )
    _train_mode(model)
    batches = Batches(mixture, recipe, step, rank=rank, world=world)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    log = _Log(folder / "metrics.csv", step) if rank == 0 else None
    parameters = [parameter for group in update.param_groups for parameter in group["params"]]
    began, failures, last = time.monotonic(), 0, recipe.steps
    if stop_after is not None:
        last = min(last, step + stop_after)
    with checkpointed_trunk(model) if recipe.checkpoint_trunk else nullcontext():
        for batch in loader:
            if step >= last:
                break
            stage = recipe.stage_at(step)
            resize_model(model, stage.size)
            rate = stage.lr * learning_rate(step, recipe.steps, recipe.optim)
            for group in update.param_groups:
                group["lr"] = rate * group["multiplier"]
            if stage.look and recipe.begins(step):
                _look(model, rollout, batch, recipe.seed + step, world)
                average = Average(model, recipe.optim.ema)
            torch.manual_seed(int(np.random.SeedSequence([recipe.seed, step, rank]).generate_state(1)[0]))
            named, count = _gradients(rollout, batch, recipe, step, parameters)
            if world > 1:
                count = _share(parameters, named, count)
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= max(count, 1)
            named = {name: value / max(count, 1) for name, value in named.items()}
            named["gradient"] = float(nn.utils.clip_grad_norm_(parameters, recipe.optim.clip))
            if math.isfinite(named["total"]) and math.isfinite(named["gradient"]):
                failures = 0
                update.step()
                average.update(model)
            else:
                failures += 1
                _dump(folder / f"nonfinite_{step}.json", rollout, batch, recipe, step, named)
                logger.warning("step %d: loss is %s on %s; step skipped", step, named, batch.sources)
                if failures == ABORT_AFTER:
                    raise FloatingPointError(
                        f"{ABORT_AFTER} non-finite losses in a row, the last at step {step}: {named}; see {folder}"
                    )
            step += 1
            numbers = None
            if rank == 0 and validate is not None and (step % validate_every == 0 or step == recipe.steps):
                numbers = _validated(model, average, validate, recipe)
            frames = batch.frames.shape[0] * batch.frames.shape[1] * world
            progress = Progress(
                step, recipe.steps, stage.name, time.monotonic() - began, named, numbers, rate=rate, frames=frames
            )
            if log is not None:
                log.add(progress)
            if rank == 0 and report is not None:
                report(progress)
            if rank == 0 and (step % save_every == 0 or step == last):
                _save(checkpoint, model, update, average, step, recipe)
    model.load_state_dict(average.weights)
    return merge_adapters(model).eval()


def _select(model: nn.Module, recipe: Recipe) -> None:
    """Say which parameters are trained: all but the frozen ones, and the memory parts only when clips are tracked."""
    for name, parameter in model.named_parameters():
        if not recipe.tracks and not name.startswith(IMAGE_PARTS):
            parameter.requires_grad_(False)
    freeze(model, recipe.freeze)
    if recipe.lora:
        add_adapters(model, recipe.lora, seed=recipe.seed)


def _train_mode(model: nn.Module) -> None:
    """Training mode, but not for frozen parts: nothing is dropped at random where nothing is learned."""
    model.train()
    for part in model.children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


def _gradients(
    rollout: Rollout, batch: ClipBatch, recipe: Recipe, step: int, parameters: list[nn.Parameter]
) -> tuple[dict[str, float], int]:
    """Leave the gradients of the summed losses on the parameters; the sums, and the number of objects."""
    stage = recipe.stage_at(step)
    named: dict[str, float] = {}
    for parameter in parameters:
        parameter.grad = None
    for piece in batch.split(recipe.optim.accumulate):
        piece = piece.to(rollout.model.device)  # type: ignore[union-attr]
        losses = rollout(piece, stage.prompts, stage.losses, dense=stage.dense, key=(recipe.seed, step))
        if losses["total"].requires_grad:
            losses["total"].backward()
        for name, value in losses.items():
            named[name] = named.get(name, 0.0) + float(value.detach())
    return named, batch.objects


def _look(model: nn.Module, rollout: Rollout, batch: ClipBatch, seed: int, world: int) -> None:
    """Turn the decoder's attention to the clicked place, equally in all processes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        features = rollout.encode(batch.frames[:, 0].to(model.device))  # type: ignore[arg-type]
        look(model, model.condition(features, None))
        if world > 1:
            for parameter in model.parameters():
                distributed.broadcast(parameter, 0)


def _share(parameters: list[nn.Parameter], named: dict[str, float], count: int) -> int:
    """Add up gradients, losses and numbers of objects over the processes of this run; the number of objects.

    Which parameters have a gradient can differ, since prompts differ: what any process has counts for all.
    """
    device = parameters[0].device
    reached = torch.tensor([each.grad is not None for each in parameters], dtype=torch.float32, device=device)
    names = sorted(named)
    told = torch.tensor([*(named[name] for name in names), count], dtype=torch.float64, device=device)
    distributed.all_reduce(reached)
    distributed.all_reduce(told)
    chosen = [each for each, any_ in zip(parameters, reached.tolist()) if any_]
    flat = torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in chosen])
    distributed.all_reduce(flat)
    offset = 0
    for parameter in chosen:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    named.update(zip(names, told[:-1].tolist()))
    return int(told[-1])


def _dump(path: Path, rollout: Rollout, batch: ClipBatch, recipe: Recipe, step: int, named: dict[str, float]) -> None:
    """Write down what led to a loss that is not finite: where the clips come from, and every prompt."""
    stage = recipe.stage_at(step)
    with torch.no_grad(), rollout.recording() as prompts:
        piece = batch.to(rollout.model.device)  # type: ignore[union-attr]
        rollout(piece, stage.prompts, stage.losses, dense=stage.dense, key=(recipe.seed, step))
    tree = {"step": step, "stage": stage.name, "losses": named, "sources": batch.sources, "prompts": prompts}
    path.write_text(json.dumps(tree, indent=1))


def _validated(
    model: nn.Module, average: Average, validate: Callable[[nn.Module], dict[str, float]], recipe: Recipe
) -> dict[str, float]:
    """Numbers of the averaged weights; the model gets its own back afterwards."""
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    size = model.image_size
    model.load_state_dict(average.weights)
    model.eval()
    try:
        return validate(merged(model) if recipe.lora else model)
    finally:
        model.load_state_dict(own)
        _train_mode(model)
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
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
    model.load_state_dict(state["model"])
    update.load_state_dict(state["optimiser"])
    average.load(state["average"])
    return int(state["step"])


def averaged(checkpoint: str | Path) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint of a run, by parameter name."""
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu")
    return {name.removeprefix("weights."): value for name, value in state["average"].items() if name != "count"}


class _Log:
    """metrics.csv: one row per step, columns fixed by the names below so that resumed runs append.

    Rows beyond the checkpoint that a killed run left behind are taken off when it goes on.
    """

    COLUMNS = (
        "step",
        "stage",
        "seconds",
        "lr",
        "total",
        "mask",
        "focal",
        "dice",
        "dense",
        "dense_iou",
        "spread",
        "iou",
        "presence",
        "gradient",
        "validation",
    )

    def __init__(self, path: Path, step: int = 0):
        self.path = path
        rows: list[dict[str, str]] = []
        if path.exists():
            with open(path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.COLUMNS)
            writer.writerows([row.get(column, "") for column in self.COLUMNS] for row in rows)

    def add(self, progress: Progress) -> None:
        validation = " ".join(f"{name}={value:.4f}" for name, value in (progress.validation or {}).items())
        values: dict[str, Any] = {
            "step": progress.step,
            "stage": progress.stage,
            "seconds": f"{progress.seconds:.1f}",
            "lr": f"{progress.rate:.3e}",
            "validation": validation,
            **{name: f"{value:.5f}" for name, value in progress.losses.items()},
        }
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([values.get(column, "") for column in self.COLUMNS])
