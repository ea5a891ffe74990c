"""One readable loop: recipe in, weights out. A killed run goes on from its last checkpoint as if nothing had happened.

Everything random is drawn from (seed, step, row): no generator has to be saved, and neither the number of workers nor
that of processes nor the pieces that a batch is computed in change the result.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import pickle
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from reprlib import repr as shortened
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, IterableDataset

from sam2core import storage
from sam2core.checkpoints import files
from sam2core.data.pictures import DataError
from sam2core.jobs.interrupt import ignore_requests
from sam2core.older import renamed
from sam2core.protocols import Initialisation, Reinitialises, TaughtDensely
from sam2core.training.adapters import add_adapters, merge_adapters
from sam2core.training.augment import Mixture
from sam2core.training.clips import ClipBatch, collate
from sam2core.training.losses import NAMES
from sam2core.training.optim import Average, OptimiserGroup, blocks_of, freeze, learning_rate, optimiser
from sam2core.training.processes import Processes
from sam2core.training.recipe import Recipe, RecipeError, Stage
from sam2core.training.rollout import Rollout, checkpointed_trunk, resize_model
from sam2core.training.shards import gathered, scattered, together
from sam2core.training.teacher import (
    FeatureCache,
    Teacher,
    TeacherModel,
    add_distil_adapters,
    check_teacher,
    remove_distil_adapters,
)

logger = logging.getLogger(__name__)

IMAGE_PARTS = ("backbone.", "neck.", "prompt_encoder.", "mask_decoder.", "memory_readout.no_memory")
ABORT_AFTER = 3  # non-finite losses in a row
SAVE_SECONDS = 600
STILL = 40  # tag of draws
ANY = (
    "dtype",
    "checkpoint_decoder",
    "checkpoint_trunk",
    "optim.accumulate",
    "patience",
)  # of a recipe: how, but not what is computed


def batch_shape(recipe: Recipe, step: int) -> tuple[Stage, int, int, int]:
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

    def __iter__(self) -> Iterator[ClipBatch | DataError]:
        """A batch a step; what cannot be read is handed on, not raised: errors of workers lose their words."""
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # the loader asks its workers in turn
        for step in range(self.start + worker, self.recipe.steps, workers):
            stage, frames, batch, objects = batch_shape(self.recipe, step)
            rows = range(self.rank, batch, self.world)
            try:
                clips = [
                    self.mixture.sample(
                        step,
                        row,
                        size=stage.size,
                        objects=objects,
                        min_area=stage.min_area,
                        frames=frames,
                        weights=stage.weights,
                    )
                    for row in rows
                ]
            except DataError as error:
                yield error
                return
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
    stop: Event | None = None,
    shard: bool = False,
    changed: bool = False,
    initialise: Initialisation | None = None,
    teacher: TeacherModel | None = None,
) -> nn.Module:
    """Train `model` where it is, by the recipe, and return it with the averaged weights.

    folder: holds `checkpoint.pt` (written every `save_every` steps, after ten minutes, and at the end; a run that finds
    one goes on from it), `metrics.csv` and `validation.csv`. validate: called with a copy that has the averaged
    weights; its numbers are kept. stop_after: end this process after so many steps, with a checkpoint; so does `stop`
    once it is set, and an interruption, but where several processes would have to agree. shard: share the weights out
    over the processes, see `Processes`; what is returned is then a model of its own, on the CPU. changed: go on from a
    checkpoint of another recipe.
    initialise: gives a new run its first weights (None: as they are). teacher: the model that the recipe names as such,
    on the same device; it is not changed but for its image size.

    A recipe with `patience` ends when so many validations in a row brought nothing better, see `best_validation`; the
    same run again then has nothing left to do.

    Raises RecipeError, naming what differs, for a checkpoint of another recipe, DataError for one that cannot be read.
    Raises FloatingPointError after three non-finite losses in a row; what led to each is written to
    `nonfinite_STEP.json` first.
    """
    folder = Path(folder)
    if recipe.patience and validate is None:
        raise RecipeError(f"recipe: patience {recipe.patience} counts validations, and this run has none")
    if not changed:
        check_recipe(folder, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, recipe, folder, shard=shard, initialise=initialise, teacher=teacher)
    team = run.team
    loader = _loader(mixture, recipe, run.step, team, workers=workers, pin=_device(model).type == "cuda")
    log = _Log(folder, run.step) if team.rank == 0 else None
    began = saved = time.monotonic()
    last = recipe.steps if stop_after is None else min(recipe.steps, run.step + stop_after)
    last = run.step if run.is_stale() else last
    stopping = False
    with run.kept(), checkpointed_trunk(model) if recipe.checkpoint_trunk else nullcontext():
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            if run.step >= last:
                break
            stage, rate = recipe.stage_at(run.step), _rate(recipe, run.step)
            losses, stopping = run.advance(batch, stop is not None and stop.is_set())
            if stopping:
                last = run.step
            due = run.step % validate_every == 0 or run.step == recipe.steps
            numbers = run.validated(validate) if validate is not None and due else None
            frames = batch.frames.shape[0] * batch.frames.shape[1] * team.world
            seconds = time.monotonic() - began
            progress = Progress(run.step, recipe.steps, stage.name, seconds, losses, numbers, rate, frames)
            if log is not None:
                log.add(progress)
            if team.rank == 0 and report is not None:
                report(progress)
            run.settled = True
            last = run.step if due and run.is_stale() else last
            late = team.world == 1 and time.monotonic() - saved > SAVE_SECONDS  # clocks of several may disagree
            if run.step % save_every == 0 or run.step == last or late:
                run.save()
                saved = time.monotonic()
            if stopping:
                break  # without waiting for a batch that nobody wants
    if stop is not None and stopping:
        stop.set()  # in all processes
    return run.result()


class _Run:
    """What a run has come to: the model, its average, what updates it, and how many steps are done.

    All of it is in `checkpoint.pt` of the folder, and taken from there when it is there already.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        folder: Path,
        *,
        shard: bool,
        initialise: Initialisation | None,
        teacher: TeacherModel | None,
    ):
        self.model, self.recipe, self.folder = model, recipe, folder
        self.initialise: Any = initialise
        self.checkpoint = folder / "checkpoint.pt"
        state = _checkpoint(self.checkpoint) if self.checkpoint.exists() else None
        model_of_teacher = None if teacher is None else teacher.model
        check_stages(model, recipe, initialise, model_of_teacher)
        if state is None and initialise is not None:
            torch.manual_seed(recipe.seed)
            initialise(model)
        if shard:
            _check_shards(recipe)
        self.size: tuple[int, int] = model.image_size  # type: ignore[assignment]
        _select(model, recipe, model_of_teacher)
        self.whole = copy.deepcopy(model).cpu() if shard else model
        self.rollout = Rollout(
            model,
            memory=recipe.memory,
            precision=recipe.precision,
            checkpoint_decoder=recipe.checkpoint_decoder,
            teacher=None if teacher is None else _teacher(teacher, recipe),
        )
        self.team = Processes(self.rollout, shard=shard)
        self.update = optimiser(model, recipe.optim)
        self.average = Average(model, recipe.optim.ema)
        self.step = 0 if state is None else self._restore(state)
        self.failures = 0  # non-finite losses in a row
        # from the first weight that a step changes until it is in the tables there is nothing to go on from
        self.settled = True
        _train_mode(model)
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}

    def advance(self, batch: ClipBatch, asked: bool) -> tuple[dict[str, float], bool]:
        """Do a step; its losses, and whether this process or another was asked to stop."""
        self._prepare(batch)
        named = self._gradients(batch)
        count, stopping = self.team.share(self.parameters, named, batch.objects, int(asked))
        gradients = {name: one.grad for name, one in self.parameters.items() if one.grad is not None}
        for names in together(gradients, gradients):
            torch._foreach_div_([gradients[name] for name in names], max(count, 1))
        named = {name: value / max(count, 1) for name, value in named.items()}
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.optim.clip)
        named["gradient"] = float(gathered(norm))
        self.settled = False
        if math.isfinite(named["total"]) and math.isfinite(named["gradient"]):
            self.failures = 0
            self.update.step()
            self.average.update(self.model)
        else:
            self._skip(batch, named)
        self.step += 1
        return named, bool(stopping)

    def _prepare(self, batch: ClipBatch) -> None:
        """Set the image size, the learning rates and the seed of the step; initialise again where it asks so."""
        recipe, step = self.recipe, self.step
        stage = recipe.stage_at(step)
        resize_model(self.model, stage.size)
        rate = _rate(recipe, step)
        for group in self.update.param_groups:
            group["lr"] = rate * group["multiplier"]
        if stage.again and recipe.begins(step):
            self.settled = False
            self._initialise_again(batch)
            self.average = Average(self.model, recipe.optim.ema)
        torch.manual_seed(int(np.random.SeedSequence([recipe.seed, step, self.team.rank]).generate_state(1)[0]))

    def _initialise_again(self, batch: ClipBatch) -> None:
        """Ask the initialisation again with the batch's first images, equally in all processes."""
        model: Any = self.model
        torch.manual_seed(self.recipe.seed + self.step)
        with torch.no_grad():
            features = self.rollout.encode(batch.frames[:, 0].to(model.device))
            self.initialise.again(model, model.condition(features, None))
            if self.team.world > 1:
                for parameter in model.parameters():
                    distributed.broadcast(parameter, 0)

    def _gradients(self, batch: ClipBatch) -> dict[str, float]:
        """Leave the gradients of the summed losses on the parameters; the sums."""
        seen: list[tuple[str, Tensor]] = []
        for parameter in self.parameters.values():
            parameter.grad = None
        pieces = batch.split(self.recipe.optim.accumulate)
        for number, piece in enumerate(pieces):
            with self.team.piece(number + 1 == len(pieces)):
                losses = self._losses(piece)
                if losses["total"].requires_grad:
                    losses["total"].backward()
            seen += [(name, value.detach().flatten()[0]) for name, value in losses.items()]
        named: dict[str, float] = {}
        values = torch.stack([value for _, value in seen]).tolist()  # the host waits once
        for (name, _), value in zip(seen, values, strict=True):
            named[name] = named.get(name, 0.0) + value
        return named

    def _losses(self, piece: ClipBatch) -> dict[str, Tensor]:
        """The losses of one piece of the step's batch."""
        stage = self.recipe.stage_at(self.step)
        piece = piece.to(self.model.device)  # type: ignore[arg-type]
        key = (self.recipe.seed, self.step)
        return self.team.module(piece, stage.prompts, stage.losses, dense=stage.dense, key=key)

    def _skip(self, batch: ClipBatch, named: dict[str, float]) -> None:
        """Write down a step whose loss is not finite. Raises FloatingPointError when it is one too many in a row."""
        self.failures += 1
        self._dump(self.folder / f"nonfinite_{self.step}.json", batch, named)
        logger.warning("step %d: loss is %s on %s; step skipped", self.step, named, batch.sources)
        if self.failures == ABORT_AFTER:
            raise FloatingPointError(
                f"{ABORT_AFTER} non-finite losses in a row, the last at step {self.step}: {named}; see {self.folder}"
            )

    def _dump(self, path: Path, batch: ClipBatch, named: dict[str, float]) -> None:
        """Write down what led to a loss that is not finite: where the clips come from, and every prompt."""
        with torch.no_grad(), self.rollout.recording() as prompts:
            for piece in batch.split(self.recipe.optim.accumulate):
                self._losses(piece)
        stage = self.recipe.stage_at(self.step).name
        tree = {"step": self.step, "stage": stage, "losses": named, "sources": batch.sources, "prompts": prompts}
        if self.team.world > 1:
            path = path.with_stem(f"{path.stem}_{self.team.rank}")  # each process has rows of its own
        storage.write_text(path, json.dumps(tree, indent=1), force=True)

    def validated(self, validate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float] | None:
        """Numbers of a copy with the averaged weights at its own size, in the first process; the others know none."""
        weights = gathered(self.average.weights)
        if self.team.rank:
            return None
        model = copy.deepcopy(self.whole)
        model.load_state_dict(weights)
        resize_model(model, self.size)
        return validate(_bare(model).to(_device(self.rollout)))

    def is_stale(self) -> bool:
        """Whether the last validations, as many as the recipe has patience for, brought nothing better; all agree."""
        if not self.recipe.patience:
            return False
        best = best_validation(self.folder / "validation.csv") if self.team.rank == 0 else None
        return self.team.as_first(best is not None and best.since >= self.recipe.patience)

    def result(self) -> nn.Module:
        """The model with the averaged weights, whole and at its own size."""
        resize_model(self.whole, self.size)
        self.whole.load_state_dict(gathered(self.average.weights))
        return _bare(self.whole)

    def save(self) -> None:
        """Write the whole state, or nothing: a checkpoint is never half written.

        What several processes wrote, one can go on with, and the other way round.
        """
        state = {
            "step": self.step,
            "model": gathered(self.model.state_dict()),
            "optimiser": gathered(self.update.state_dict()),
            "average": gathered(self.average.state()),
            "recipe": asdict(self.recipe),
        }
        if self.team.rank == 0:
            files.save(self.checkpoint, state, force=True)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Save when the block is interrupted, but where several processes would have to agree."""
        try:
            yield
        except KeyboardInterrupt:
            if self.settled and self.team.world == 1:
                self.save()
            raise

    def _restore(self, state: dict[str, Any]) -> int:
        """Put a checkpoint's values where they belong, as whole tensors or as shards; the step."""
        if isinstance(self.update, OptimiserGroup) is not ("members" in state["optimiser"]):
            raise RecipeError("recipe: optim.name cannot be changed within a run; begin another with its weights")
        held = state["model"]
        self.model.load_state_dict(
            {name: scattered(held[name], like) for name, like in self.model.state_dict().items()}
        )
        self.update.load_state_dict(state["optimiser"])
        for parameter, values in self.update.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[name] = scattered(value, parameter.detach())
        self.average.load(state["average"])
        return int(state["step"])


def _bare(model: nn.Module) -> nn.Module:
    """A model without what only its training needed, in place and in evaluation mode."""
    return remove_distil_adapters(merge_adapters(model)).eval()


def _teacher(given: TeacherModel, recipe: Recipe) -> Teacher:
    """A teacher that remembers as its student does in training."""
    cache = None if given.cache is None else FeatureCache(given.cache, given.model)
    return Teacher(Rollout(given.model, memory=recipe.memory, precision=recipe.precision), recipe.distil, cache)


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, before the multipliers of the parameters' groups."""
    return recipe.stage_at(step).lr * learning_rate(step, recipe.steps, recipe.optim)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _loader(mixture: Mixture, recipe: Recipe, step: int, team: Processes, *, workers: int, pin: bool) -> DataLoader:
    batches = Batches(mixture, recipe, step, rank=team.rank, world=team.world)
    return DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pin, worker_init_fn=_deaf)


def _deaf(worker: int) -> None:
    """Requests to stop are for the process that trains: it ends its workers when it is done with them."""
    ignore_requests()


def check_stages(
    model: nn.Module, recipe: Recipe, initialise: Initialisation | None, teacher: nn.Module | None = None
) -> None:
    """Raise RecipeError for a stage that asks of the model's parts, its start or its teacher what they cannot do."""
    if bool(recipe.teacher) != (teacher is not None):
        named = f"teacher {recipe.teacher!r}" if recipe.teacher else "no teacher"
        raise RecipeError(f"recipe: it names {named}, and {'none' if teacher is None else 'one'} was given")
    if teacher is not None:
        try:
            check_teacher(
                teacher, recipe.distil, tracks=recipe.tracks, dense=any(stage.dense > 0 for stage in recipe.stages)
            )
        except ValueError as error:
            raise RecipeError(f"recipe: {error}") from error
    for stage in recipe.stages:
        if stage.dense > 0 and not isinstance(model.mask_decoder, TaughtDensely):
            raise RecipeError(
                f"recipe: stage {stage.name!r} has dense {stage.dense}, and the mask decoder "
                f"{type(model.mask_decoder).__name__} cannot be taught densely: it has no `enlarge` and `mask_mlps`; "
                "set dense to 0"
            )
        if stage.again and not isinstance(initialise, Reinitialises):
            raise RecipeError(
                f"recipe: stage {stage.name!r} asks for the initialisation again, and start {recipe.start!r} cannot "
                "be asked again; remove `again`, or name another start"
            )


def check_model(
    model: nn.Module,
    recipe: Recipe,
    *,
    shard: bool = False,
    initialise: Initialisation | None = None,
    teacher: nn.Module | None = None,
) -> None:
    """Raise what `train` would raise for what the recipe says about the model's parameters; the model is used up.

    ValueError for patterns that match nothing, optimisers that are not there and what shards cannot do,
    ModuleNotFoundError without `peft`. A model on the meta device will do.
    """
    if shard:
        _check_shards(recipe)
    check_stages(model, recipe, initialise, teacher)
    if recipe.checkpoint_trunk:
        blocks_of(model, "checkpoint_trunk")
    _select(model, recipe, teacher)
    optimiser(model, recipe.optim)


def _check_shards(recipe: Recipe) -> None:
    if any(stage.again for stage in recipe.stages):
        raise RecipeError("recipe: `again` changes whole weights, which shards have not")
    if recipe.optim.name == "muon":
        raise RecipeError("recipe: optim.name 'muon' takes steps of whole matrices, which shards have not; use 'adamw'")


def _select(model: nn.Module, recipe: Recipe, teacher: nn.Module | None) -> None:
    """Say which parameters are trained: all but the frozen ones, and the memory parts only when clips are tracked.

    What the model is compared with its teacher through comes on top.
    """
    for name, parameter in model.named_parameters():
        if not recipe.tracks and not name.startswith(IMAGE_PARTS):
            parameter.requires_grad_(False)
    freeze(model, recipe.freeze)
    if recipe.lora:
        add_adapters(model, recipe.lora, seed=recipe.seed)
    if teacher is not None:
        size, distil = recipe.stages[0].size, recipe.distil
        add_distil_adapters(model, teacher, distil, size=size, memory=recipe.tracks, seed=recipe.seed)


def _train_mode(model: nn.Module) -> None:
    """Training mode, but not for frozen parts: nothing is dropped at random where nothing is learned."""
    model.train()
    for part in model.children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


def check_recipe(folder: str | Path, recipe: Recipe) -> None:
    """Raise RecipeError when a run of another recipe lies in `folder`, naming what differs.

    Raises DataError for a checkpoint that cannot be read.
    """
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        return
    state = _checkpoint(path, mmap=True)
    held, now = (json.loads(json.dumps(each)) for each in (renamed(state["recipe"]), asdict(recipe)))
    found = list(_differences(held, now, ""))
    if found:
        raise RecipeError(
            f"{path} is of a run with another recipe: {'; '.join(found[:5])}{' ...' if len(found) > 5 else ''}. Name "
            "another folder for a new run, or say that the change is meant"
        )


def _differences(held: Any, now: Any, where: str) -> Iterator[str]:
    """What changes a run's result and is not as it was; keys that older checkpoints do not have are as they were."""
    if isinstance(held, dict) and isinstance(now, dict):
        for key in held:
            if key in now and f"{where}{key}" not in ANY:
                yield from _differences(held[key], now[key], f"{where}{key}.")
    elif isinstance(held, list) and isinstance(now, list):
        if len(held) != len(now):
            yield f"{where[:-1]} has {len(now)} entries, had {len(held)}"
        for number, (was, new) in enumerate(zip(held, now, strict=False)):
            yield from _differences(was, new, f"{where}{number}.")
    elif held != now:
        yield f"{where[:-1]} was {shortened(held)}, is {shortened(now)}"


def _checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """What a run saved. Raises DataError for a file that was cut short or damaged."""
    what = f"{path} ({path.stat().st_size} bytes) is no whole checkpoint"
    advice = "take it away to begin anew, or name another folder"
    if not zipfile.is_zipfile(path):  # its end is missing, of which torch speaks in many ways
        raise DataError(f"{what}: {advice}")
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{what} ({' '.join(str(error).split())}): {advice}") from error


class Validation(NamedTuple):
    """The validation with the highest first number: its step, that number, and how many came after it."""

    step: int
    score: float
    since: int


def best_validation(path: Path) -> Validation | None:
    """The best of what a run's validation.csv holds, of equal ones the first; None before there is any."""
    rows = [row for row in _rows_until(path, sys.maxsize) if len(row) > 1]
    scores = [float(list(row.values())[1] or "nan") for row in rows]
    scores = [-math.inf if math.isnan(score) else score for score in scores]
    if not scores:
        return None
    place = scores.index(max(scores))
    return Validation(int(rows[place]["step"]), scores[place], len(scores) - 1 - place)


class _Log:
    """metrics.csv, a row per step, and validation.csv, a row per validation, in columns that a resumed run finds again.

    Rows beyond the checkpoint that a killed run left behind are taken off when it goes on.
    """

    COLUMNS = ("step", "stage", "seconds", "lr", *NAMES, "gradient")

    def __init__(self, folder: Path, step: int = 0):
        self.metrics, self.validation = folder / "metrics.csv", folder / "validation.csv"
        _rewrite(self.metrics, self.COLUMNS, _rows_until(self.metrics, step))
        if self.validation.exists():
            rows = _rows_until(self.validation, step)
            _rewrite(self.validation, tuple(rows[0]) if rows else ("step",), rows)

    def add(self, progress: Progress) -> None:
        values: dict[str, Any] = {
            "step": progress.step,
            "stage": progress.stage,
            "seconds": f"{progress.seconds:.1f}",
            "lr": f"{progress.rate:.3e}",
            **{name: f"{value:.5f}" for name, value in progress.losses.items()},
        }
        with open(self.metrics, "a", newline="") as file:
            csv.writer(file).writerow([values.get(column, "") for column in self.COLUMNS])
        if progress.validation:
            rows = _rows_until(self.validation, progress.step)
            row = {"step": str(progress.step), **{name: f"{v:.5f}" for name, v in progress.validation.items()}}
            _rewrite(
                self.validation, tuple(dict.fromkeys(name for each in (*rows, row) for name in each)), [*rows, row]
            )


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= step]


def _rewrite(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with storage.writing(path, force=True) as unfinished, open(unfinished, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([row.get(column, "") for column in columns] for row in rows)
