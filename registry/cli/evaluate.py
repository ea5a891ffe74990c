"""`sam2core evaluate`: how good the masks are, beside simple baselines on the same images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from registry.cli.options import DEFAULT_MODEL, build_arguments, model_options, pairs


@click.group()
def command() -> None:
    """Measure a model on labelled pictures."""


@command.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clicks", type=click.IntRange(1, 20), default=1, show_default=True, help="Clicks per object.")
@click.option("--last", type=click.IntRange(min=1), help="Only the last so many pictures in sorted order.")
@click.option("--foreground", is_flag=True, help="Label 0 is background and never asked for.")
@click.option("--seed", default=0, show_default=True, help="Draws the annotator and the regions.")
@click.option(
    "--baselines/--no-baselines", default=True, show_default=True, help="Constant disc and flood fill beside it."
)
@click.option("--json", "as_json", is_flag=True, help="Print every object's IoU as JSON.")
@model_options
def clicks(
    root: Path,
    clicks: int,
    last: int | None,
    foreground: bool,
    seed: int,
    baselines: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Click on the objects of ROOT/images as ROOT/labels has them, and print the mean IoU after each click.

    Labels are PNGs of region ids, NAME.png or NAME_ANNOTATOR.png, of which one is drawn. Up to ten
    regions of 0.5 to 60 % of the picture are asked for. The first click is the middle of the region,
    each further one the middle of the largest error. In brackets: the 95 % interval over pictures.
    """
    import registry
    from sam2core.evaluation.baselines import ConstantDisc, FloodFill
    from sam2core.evaluation.clicks import PredictorSegmenter, evaluate, folder_samples
    from sam2core.evaluation.metrics import summarise

    name = options["model"] or DEFAULT_MODEL
    predictor = registry.predictor(name, "image", *pairs(options["overrides"]), **build_arguments(options))
    methods: dict[str, Any] = {str(name): PredictorSegmenter(predictor)}
    if baselines:
        methods |= {"constant disc": ConstantDisc(), "flood fill": FloodFill()}
    samples = list(folder_samples(root, last=last, background=not foreground, seed=seed))
    if not samples:
        raise ValueError(f"{root} holds no region of a usable size")
    results: dict[str, Any] = {}
    for label, segmenter in methods.items():
        scores = []
        with click.progressbar(length=len(samples), label=label, file=sys.stderr) as bar:
            for _, found in evaluate(segmenter, samples, clicks=clicks):
                scores.append(found)
                bar.update(1)
        results[label] = scores
    if as_json:
        document = {
            label: {sample.name: each for sample, each in zip(samples, scores)} for label, scores in results.items()
        }
        click.echo(json.dumps(document))
        return
    objects = sum(len(sample.masks) for sample in samples)
    click.echo(f"{len(samples)} pictures, {objects} objects; mean IoU after each click")
    for label, scores in results.items():
        shown = []
        for number in range(clicks):
            summary = summarise([[each[number] for each in image] for image in scores])
            shown.append(f"{summary.mean:.3f} [{summary.low:.3f}, {summary.high:.3f}]")
        click.echo(f"{label:<16}" + "  ".join(shown))
