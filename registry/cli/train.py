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
    from sam2core.training.clips import Pack
    from sam2core.training.loop import Progress
    from sam2core.training.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "recipes"


@click.command()
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
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that make batches."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(
    recipe_name: str,
    data: Path,
    output: Path,
    pack: Path | None,
    validate: Path | None,
    every: int,
    workers: int,
    threads: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Train a model by a recipe; the path of the weights is printed.

    \b
    sam2core train --recipe nano --data DIR
    sam2core train --recipe nano --data DIR optim.lr=4e-4 stages.0.steps=2000

    Run the same line again after an interruption: it goes on from the last checkpoint in the output
    folder. Under torchrun the processes share every batch.
    """
    tree = read_recipe(recipe_name, overrides)

    import torch
    from torch import distributed

    import registry
    from sam2core.checkpoints import files
    from sam2core.training.augment import Mixture
    from sam2core.training.loop import train
    from sam2core.training.recipe import Recipe

    recipe = Recipe.read(tree)
    if threads:
        torch.set_num_threads(threads)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    first = int(os.environ.get("RANK", 0)) == 0

    collections = [
        open_pack(recipe, number, data, pack or output / "pack", first) for number in range(len(recipe.sources))
    ]
    weights = [source.weight for source in recipe.sources]
    mixture = Mixture(collections, weights, augment=recipe.augment, seed=recipe.seed)
    model = registry.build(recipe.model, weights=recipe.start == "weights", **recipe.overrides)
    size = model.image_size

    train(
        model,
        recipe,
        mixture,
        output,
        validate=_validation(validate) if validate else None,
        validate_every=every,
        report=_report if first else None,
        workers=workers,
    )
    model.image_size = size
    if first:
        target = output / "weights.safetensors"
        state = {
            name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()
        }
        spec = dataclasses.asdict(registry.spec(recipe.model, **recipe.overrides))
        files.write(target, state, files.describe(spec=spec, layout="native"), force=True)
        click.echo(target)


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


def open_pack(recipe: Recipe, number: int, data: Path, folder: Path, writes: bool) -> Pack:
    """The decoded pictures of one source, made when they are not there yet; other processes wait for them."""
    from sam2core.training.clips import READERS, Pack

    source = recipe.sources[number]
    if source.reader not in READERS:
        raise ValueError(f"sources.{number}: there is no reader {source.reader!r}; there are {', '.join(READERS)}")
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


def _report(progress: Progress) -> None:
    if progress.validation:
        told = "  ".join(f"{name} {value:.3f}" for name, value in progress.validation.items())
        click.echo(f"step {progress.step}: {told}", err=True)
    if progress.step % 20 == 0 or progress.step == progress.steps:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        click.echo(f"{progress.stage} {progress.step}/{progress.steps}  {progress.seconds:.0f} s  {losses}", err=True)
