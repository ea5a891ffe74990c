"""`sam2core train`: a recipe and a folder of data in, weights out; a run that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.options import pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sam2core.training.clips import LabelledImage
    from sam2core.training.footage import Footage
    from sam2core.training.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "recipes"


class RunByDefault(click.Group):
    """`train --recipe NAME` means `train run --recipe NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=RunByDefault)
def command() -> None:
    """Train a model by a recipe; `train check` looks at the data first."""


@command.command()
@click.option(
    "--recipe", "recipe_name", required=True, metavar="NAME", help="A recipe of this package, or a .yaml file."
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that the recipe's sources lie in.",
)
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
    help="Folder for the decoded pictures.  [default: pack/ in the output folder]",
)
@click.option(
    "--validate",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with images/ and labels/ on which one click per object is scored now and then.",
)
@click.option("--every", type=click.IntRange(min=1), default=500, show_default=True, help="Steps between validations.")
@click.option("--save", type=click.IntRange(min=1), default=100, show_default=True, help="Steps between checkpoints.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that make batches."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--device", default=None, help="cpu, cuda, mps.  [default: cuda under torchrun where there is one, cpu]")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def run(
    recipe_name: str,
    data: Path,
    output: Path,
    pack: Path | None,
    validate: Path | None,
    every: int,
    save: int,
    workers: int,
    threads: int | None,
    device: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a model by a recipe; the path of the weights is printed.

    \b
    sam2core train check --recipe nano --data DIR
    sam2core train --recipe nano --data DIR
    sam2core train --recipe nano --data DIR optim.lr=4e-4 stages.0.steps=2000

    Run the same line again after an interruption: it goes on from the last checkpoint in the output
    folder. Under torchrun the processes share every batch.
    """
    tree = read_recipe(recipe_name, overrides)

    import torch
    from torch import distributed

    import registry
    from registry.cli.train_report import Reporter
    from sam2core.checkpoints import files
    from sam2core.training.augment import Mixture
    from sam2core.training.loop import train
    from sam2core.training.recipe import Recipe

    recipe = Recipe.read(tree)
    if threads:
        torch.set_num_threads(threads)
    place = _join(device)
    first = int(os.environ.get("RANK", 0)) == 0

    collections = [
        open_source(recipe, number, data, pack or output / "pack", first) for number in range(len(recipe.sources))
    ]
    weights = [source.weight for source in recipe.sources]
    mixture = Mixture(collections, weights, augment=recipe.augment, seed=recipe.seed)
    model = registry.build(recipe.model, weights=recipe.start == "weights", device=place, **recipe.overrides)
    size = model.image_size

    reporter = Reporter(output) if first else None
    train(
        model,
        recipe,
        mixture,
        output,
        validate=_validation(validate) if validate else None,
        validate_every=every,
        save_every=save,
        report=reporter,
        workers=workers,
    )
    model.image_size = size
    if reporter is not None:
        reporter.close()
        target = output / "weights.safetensors"
        state = {
            name: value.cpu().half() if value.is_floating_point() else value.cpu()
            for name, value in model.state_dict().items()
        }
        spec = dataclasses.asdict(registry.spec(recipe.model, **recipe.overrides))
        files.write(target, state, files.describe(spec=spec, layout="native"), force=True)
        click.echo(target)
    if distributed.is_initialized():
        distributed.destroy_process_group()


@command.command()
@click.option(
    "--recipe",
    "recipe_name",
    default="finetune_image",
    show_default=True,
    metavar="NAME",
    help="A recipe of this package, or a .yaml file.",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that the recipe's sources lie in.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("samples.png"),
    show_default=True,
    help="Contact sheet of what a training step sees.",
)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def check(recipe_name: str, data: Path, output: Path, overrides: tuple[str, ...]) -> None:
    """Count what a recipe's data holds, name what cannot be read, and draw what a training step sees.

    Exit code 1 when something cannot be read.
    """
    from registry.cli.train_report import contact_sheet
    from sam2core.training.inspection import inspect
    from sam2core.training.recipe import Recipe

    recipe = Recipe.read(read_recipe(recipe_name, overrides))
    broken = False
    for source in recipe.sources:
        found = inspect(source.reader, data / source.path, source.options)
        click.echo(f"{data / source.path}: {found.sentence()}")
        for problem in found.problems:
            click.echo(f"  {problem}")
        broken |= bool(found.problems)
    if broken:
        raise click.exceptions.Exit(1)
    click.echo(contact_sheet(recipe, data, output))


def _join(device: str | None) -> str:
    """Join the other processes of torchrun, if there are any; the device to train on."""
    import torch
    from torch import distributed

    if "RANK" not in os.environ:
        return device or "cpu"
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind != "cuda":
        distributed.init_process_group("gloo")
        return kind
    place = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    torch.cuda.set_device(place)
    distributed.init_process_group("nccl")
    return place


def read_recipe(name: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tree of a recipe with overrides applied. Raises ValueError for an unknown name or key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = Path(name)
    if path.suffix != ".yaml":
        path = RECIPES / f"{name}.yaml"
        if not path.exists():
            known = ", ".join(sorted(each.stem for each in RECIPES.glob("*.yaml")))
            raise ValueError(f"there is no recipe {name!r}; there are {known}, or give a .yaml file")
    tree = OmegaConf.load(path)
    for text in pairs(overrides):
        key, _, value = text.partition("=")
        try:
            OmegaConf.update(tree, key, OmegaConf.from_dotlist([f"value={value}"])["value"], force_add=True)
        except (OmegaConfBaseException, ValueError, IndexError) as error:
            raise ValueError(f"override {text!r}: {error}") from error
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def open_source(
    recipe: Recipe, number: int, data: Path, folder: Path, writes: bool
) -> Sequence[LabelledImage] | Sequence[Footage]:
    """One source: footage is listed; pictures are decoded into `folder` when they are not there yet.

    Processes that do not write wait for the one that does. Raises ValueError for an unknown reader.
    """
    from sam2core.training.clips import READERS, Pack
    from sam2core.training.footage import FOOTAGE

    source = recipe.sources[number]
    if source.reader in FOOTAGE:
        return FOOTAGE[source.reader](data / source.path, **source.options)
    if source.reader not in READERS:
        known = ", ".join((*READERS, *FOOTAGE))
        raise ValueError(f"sources.{number}: there is no reader {source.reader!r}; there are {known}")
    place = folder / f"{number}_{Path(source.path).name}"
    if not (place / "index.json").exists():
        if writes:
            click.echo(f"decoding {data / source.path}", err=True)
            return Pack.write(place, READERS[source.reader](data / source.path, **source.options), side=recipe.side)
        while not (place / "index.json").exists():
            time.sleep(1)
    return Pack(place)


def _validation(folder: Path) -> Any:
    from sam2core.evaluation.clicks import PredictorSegmenter, evaluate, folder_samples
    from sam2core.evaluation.metrics import summarise
    from sam2core.predictors.image import ImagePredictor

    samples = list(folder_samples(folder, last=50))

    def score(model: Any) -> dict[str, float]:
        found = evaluate(PredictorSegmenter(ImagePredictor(model)), samples)
        return {"iou@1": summarise([[each[0] for each in scores] for _, scores in found]).mean}

    return score
