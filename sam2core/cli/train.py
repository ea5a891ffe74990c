"""`sam2core train`: a recipe and a folder of data in, weights out; a run that was stopped resumes."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.plugins import current
from sam2core.annotations import dtype_name
from sam2core.cli.options import check_folder, format_option
from sam2core.cli.train_data import check_sources, initialisation, open_sources, read_recipe, with_format
from sam2core.jobs.interrupt import InterruptGuard

if TYPE_CHECKING:
    from torch import nn

    from sam2core.training.recipe import Recipe

Function = TypeVar("Function", bound=Callable[..., Any])


class RunByDefault(click.Group):
    """`train --recipe NAME` means `train run --recipe NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=RunByDefault)
def command() -> None:
    """Train a model by a recipe; `train check` looks at the data first."""


def recipe_options(default: str | None = None) -> Callable[[Function], Function]:
    """Add --recipe, which must be given unless it has a default, --data and the trailing overrides to a verb."""
    names = ", ".join(sorted(current().recipes))
    # to click an explicit default of None is a default, and what has one is not asked for
    presence: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}

    def asked(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
        if value is None:
            raise click.UsageError(f"say how to train: --recipe NAME, one of {names}, or a .yaml file", ctx)
        return value

    options = [
        click.option(
            "--recipe",
            "recipe_name",
            **presence,
            metavar="NAME",
            callback=asked,
            help=f"{names}, or a .yaml file.",
        ),
        click.option(
            "--data",
            required=True,
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="The folder that the recipe's sources lie in.",
        ),
        format_option,
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
    ]

    def add(function: Function) -> Function:
        for decorate in reversed(options):
            function = decorate(function)
        return function

    return add


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run is done, as the options of `train run` say: where it lies, how it is watched, and on what it runs."""

    output: Path
    pack: Path | None
    teacher_cache: Path | None
    validate: Path | None
    last: int
    every: int
    save: int
    workers: int
    threads: int | None
    device: str
    shard: bool
    changed: bool


@command.command()
@recipe_options()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("run"),
    show_default=True,
    help="Folder for the checkpoint, metrics.csv and weights.safetensors.",
)
@click.option(
    "--pack",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the decoded images.  [default: pack/ in the output folder]",
)
@click.option(
    "--teacher-cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps what the recipe's teacher sees in an image, for when it comes again.",
)
@click.option(
    "--validate",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images (images/ and labels/) that are clicked on, or videos that are tracked and scored, now and then; the "
    "best weights so far are kept as best.safetensors.",
)
@click.option(
    "--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many images are clicked on."
)
@click.option("--every", type=click.IntRange(min=1), default=500, show_default=True, help="Steps between validations.")
@click.option("--save", type=click.IntRange(min=1), default=100, show_default=True, help="Steps between checkpoints.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that make batches."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps")
@click.option("--shard", is_flag=True, help="Under torchrun: share the weights out too (FSDP2), for large models.")
@click.option("--changed", is_flag=True, help="Resume a run although its recipe has changed.")
def run(recipe_name: str, data: Path, format_name: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Train a model by a recipe; the path of the weights is printed.

    \b
    sam2core train check --recipe finetune_image --data DIR
    sam2core train --recipe finetune_image --data DIR
    sam2core train --recipe finetune_image --data DIR optim.lr=4e-4 stages.0.steps=2000

    Run the same line again after an interruption: it goes on from the last checkpoint in the output
    folder, the one of Ctrl-C or SIGTERM included. Under torchrun the processes share every batch.
    """
    settings = Settings(**options)
    tree = with_format(read_recipe(recipe_name, overrides), format_name)

    import torch
    from torch import distributed

    import registry
    from sam2core.cli.train_report import Reporter
    from sam2core.evaluation.validation import validation
    from sam2core.training.loop import train
    from sam2core.training.recipe import Recipe
    from sam2core.training.teacher import TeacherModel

    recipe = Recipe.read(tree)
    output = settings.output
    initialise = _checked_start(recipe, settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    place = _join(settings.device)
    torch.manual_seed(recipe.seed)  # a fresh model begins with the same weights in every run and process
    first = int(os.environ.get("RANK", 0)) == 0
    # weights that learn are fp32
    about: dict[str, Any] = {"weights": recipe.start == "weights", "device": place, "dtype": "float32"}
    model = registry.build(recipe.model, **about, **recipe.overrides)
    teacher = None
    if recipe.teacher:
        teacher = TeacherModel(registry.build(recipe.teacher, device=place, dtype="float32"), settings.teacher_cache)
    mixture = open_sources(recipe, data, settings.pack or output / "pack", first)

    reporter = Reporter(output) if first else None
    scores = None
    if settings.validate is not None:
        scores = Best(validation(settings.validate, pictures=settings.last), output / "best.safetensors", recipe)
    with InterruptGuard(partial(click.echo, err=True)) as guard:
        model = train(  # type: ignore[assignment]
            model,
            recipe,
            mixture,
            output,
            validate=scores,
            validate_every=settings.every,
            save_every=settings.save,
            report=reporter,
            workers=settings.workers,
            stop=guard.asked,
            shard=settings.shard,
            changed=settings.changed,
            initialise=initialise,
            teacher=teacher,
        )
    if reporter is not None:
        reporter.close()
        if not guard.asked.is_set():
            if ended := _ended_early(output, recipe):
                click.echo(ended, err=True)
            click.echo(write_weights(output / "weights.safetensors", model, recipe))
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if guard.asked.is_set():
        if first:
            click.echo("stopped; the same line goes on from here", err=True)
        guard.check()


@command.command()
@recipe_options(default="finetune_image")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("samples.png"),
    show_default=True,
    help="Contact sheet of what a training step sees.",
)
def check(recipe_name: str, data: Path, output: Path, format_name: str, overrides: tuple[str, ...]) -> None:
    """Count what a recipe's data holds, name what cannot be read, and draw what a training step sees.

    Exit code 1 when something cannot be read.
    """
    from sam2core.cli.train_report import contact_sheet
    from sam2core.training.inspection import inspect
    from sam2core.training.recipe import Recipe

    recipe = Recipe.read(with_format(read_recipe(recipe_name, overrides), format_name))
    check_sources(recipe)
    check_folder(output)
    broken = False
    for source in recipe.sources:
        with click.progressbar(length=1, label=f"reading {data / source.path}", file=sys.stderr) as bar:

            def told(done: int, total: int, bar: Any = bar) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            found = inspect(source.reader, data / source.path, source.options, told)
        click.echo(f"{data / source.path}: {found.sentence()}")
        for problem in found.problems:
            click.echo(f"  {problem}")
        broken |= bool(found.problems)
    if broken:
        raise click.exceptions.Exit(1)
    click.echo(contact_sheet(recipe, data, output))


def _checked_start(recipe: Recipe, settings: Settings) -> Any:
    """What gives the run its first weights, see `initialisation`.

    What is wrong with the recipe, its model or the run to go on with is told here: decoding images takes minutes.
    """
    import registry
    from sam2core.training.loop import check_model

    check_sources(recipe)
    if recipe.patience and settings.validate is None:
        raise click.UsageError(f"patience={recipe.patience} counts validations: --validate DIR")
    if not settings.changed:
        _check_same(settings.output, recipe)
    initialise = initialisation(recipe)
    empty = registry.build(recipe.model, weights=False, device="meta", **recipe.overrides)
    teacher = registry.build(recipe.teacher, weights=False, device="meta") if recipe.teacher else None
    if settings.teacher_cache is not None and teacher is None:
        raise click.UsageError("--teacher-cache keeps what a teacher sees, and the recipe has none: teacher=NAME")
    check_model(empty, recipe, shard=settings.shard, initialise=initialise, teacher=teacher)
    return initialise


def _ended_early(output: Path, recipe: Recipe) -> str:
    """What is said of a run that lost its patience; empty for others."""
    from sam2core.training.loop import best_validation

    best = best_validation(output / "validation.csv") if recipe.patience else None
    if best is None or best.since < recipe.patience:
        return ""
    held = output / "best.safetensors"
    return f"nothing better came in {best.since} validations after step {best.step} ({best.score:.3f}), kept as {held}"


def _check_same(output: Path, recipe: Recipe) -> None:
    """Raise RecipeError, which says what can be done, when the folder holds a run of another recipe."""
    from sam2core.training.loop import check_recipe
    from sam2core.training.recipe import RecipeError

    try:
        check_recipe(output, recipe)
    except RecipeError as error:
        raise RecipeError(f"{error}: -o OTHER, or --changed") from error


class Best:
    """Validates, and writes the weights down when the first of the numbers is higher than ever in this run."""

    def __init__(self, scores: Callable[[Any], dict[str, float]], target: Path, recipe: Recipe):
        from sam2core.checkpoints import files

        self.scores, self.target, self.recipe = scores, target, recipe
        held = files.read_metadata(target) if target.exists() else {}
        self.best = float(held.get("sam2core.score", "-inf"))

    def __call__(self, model: nn.Module) -> dict[str, float]:
        numbers = self.scores(model)
        score = next(iter(numbers.values()))
        if score > self.best:
            self.best = score
            write_weights(self.target, model, self.recipe, score=repr(score))
        return numbers


def write_weights(target: Path, model: nn.Module, recipe: Recipe, **more: str) -> Path:
    """Write a trained model with its spec, in the recipe's dtype; `more` goes to the file's metadata."""
    import torch

    import registry
    from sam2core.checkpoints import files

    dtype = getattr(torch, dtype_name(recipe.dtype))
    state = {
        name: value.cpu().to(dtype) if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
    spec = dataclasses.asdict(registry.spec(recipe.model, **recipe.overrides))
    return files.write(target, state, files.describe(spec=spec, layout="native", **more), force=True)


def _join(device: str) -> str:
    """Join the other processes of torchrun, if there are any; the device to train on."""
    from datetime import timedelta

    import torch
    from torch import distributed

    from registry.assemble import device_of

    if "RANK" not in os.environ:
        return str(device_of(device))
    patience = timedelta(hours=3)  # others wait while the first decodes or validates
    if device in ("auto", "cuda") and torch.cuda.is_available():
        place = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(place)
        distributed.init_process_group("nccl", timeout=patience)
        return place
    distributed.init_process_group("gloo", timeout=patience)
    return "cpu" if device == "auto" else device
