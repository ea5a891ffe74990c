"""`sam2core evaluate clicks`: a model and simple methods, on the same labelled images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.options import DEFAULT_MODEL, build_arguments, format_option, model_options, pairs
from sam2core.cli.table import table

if TYPE_CHECKING:
    from sam2core.evaluation.clicks import Session

METHODS = {"disc": "ConstantDisc", "flood": "FloodFill", "grabcut": "GrabCut", "walker": "RandomWalker"}
GOALS = (0.8, 0.9)


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clicks", type=click.IntRange(1, 20), default=1, show_default=True, help="Clicks per object.")
@click.option("--last", type=click.IntRange(min=1), help="Only the last so many images in sorted order.")
@click.option("--objects", type=click.IntRange(min=1), default=10, show_default=True, help="Objects an image at most.")
@click.option(
    "--smallest",
    type=click.FloatRange(0, 0.6),
    default=0.005,
    show_default=True,
    metavar="SHARE",
    help="Share of the image below which a region is not asked for.",
)
@click.option("--foreground", is_flag=True, help="Label 0 is background and never asked for.")
@click.option("--seed", default=0, show_default=True, help="Draws the annotator and the regions.")
@click.option("--split", metavar="NAME", help="Of a data set that is divided, such as val of COCO's panoptic layout.")
@format_option
@click.option(
    "--baselines/--no-baselines", default=True, show_default=True, help="Constant disc and flood fill beside it."
)
@click.option(
    "--also",
    multiple=True,
    type=click.Choice(list(METHODS)[2:]),
    help="A slower method beside it; may be repeated, needs sam2core[baselines].",
)
@click.option("--json", "as_json", is_flag=True, help="Print every object's IoU as JSON.")
@model_options
def clicks(
    root: Path,
    clicks: int,
    last: int | None,
    objects: int,
    smallest: float,
    foreground: bool,
    seed: int,
    split: str | None,
    format_name: str,
    baselines: bool,
    also: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Click on the labelled objects of ROOT, and print the mean IoU after each click.

    ROOT is labelled data in any format of docs/data.md, such as images/ with labels/; of several
    annotators of an image one is drawn. Regions of 0.5 (see --smallest) to 60 % of the image are asked
    for. The first click is the middle of the region, each further one the middle of the largest error of
    the method's own answer. In brackets: the 95 % interval over images. NoC: the clicks it took on
    average to an IoU of 0.80 or 0.90, those that never got there counted as all of them.
    """
    import registry
    from sam2core.data.formats import open_data
    from sam2core.evaluation import baselines as simple
    from sam2core.evaluation.clicks import PredictorSegmenter, click_through, samples_of

    data = open_data(root, format_name, **({"split": split} if split else {}))
    click.echo(data.sentence, err=True)
    samples = list(samples_of(data, last=last, background=not foreground, seed=seed, most=objects, smallest=smallest))
    if not samples:
        raise ValueError(
            f"{root} holds no region of {100 * smallest:g} to 60 % of its image; --smallest takes smaller ones"
        )
    name = options["model"] or DEFAULT_MODEL
    predictor = registry.predictor(name, "image", *pairs(options["overrides"]), **build_arguments(options))
    methods: dict[str, Any] = {str(name): PredictorSegmenter(predictor)}
    for word in (*(("disc", "flood") if baselines else ()), *dict.fromkeys(also)):
        methods[word] = getattr(simple, METHODS[word])()
    results: dict[str, list[list[Session]]] = {}
    for label, segmenter in methods.items():
        results[label] = []
        with click.progressbar(samples, label=label, file=sys.stderr) as bar:
            for sample in bar:
                answers = segmenter.encode(sample.image)
                results[label].append(
                    [click_through(answers, truth, clicks=clicks, ignored=sample.ignored) for truth in sample.masks]
                )
    if as_json:
        document = {
            label: {sample.name: [list(one.scores) for one in each] for sample, each in zip(samples, found)}
            for label, found in results.items()
        }
        click.echo(json.dumps(document))
        return
    click.echo(f"{len(samples)} images, {sum(len(sample.masks) for sample in samples)} objects; mean IoU after clicks")
    shown = [count for count in (1, 2, 3, 5, 8, 12, 20) if count < clicks] + [clicks]
    head = ["", *(f"@{count}" for count in shown), *(f"NoC{100 * goal:.0f}" for goal in GOALS if clicks > 1), "s/click"]
    click.echo(table(head, [_row(label, found, shown, clicks) for label, found in results.items()]))


def _row(label: str, found: list[list[Session]], shown: list[int], clicks: int) -> list[str]:
    from sam2core.evaluation.metrics import clicks_needed, summarise

    row = [label]
    for count in shown:
        one = summarise([[session.scores[count - 1] for session in image] for image in found])
        row.append(f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]")
    sessions = [session for image in found for session in image]
    for goal in GOALS if clicks > 1 else ():
        needed = [clicks_needed(session.scores, goal) or clicks for session in sessions]
        row.append(f"{sum(needed) / len(needed):.2f}")
    said = sum(len(session.clicks) for session in sessions)
    return [*row, f"{sum(session.seconds for session in sessions) / said:.3f}"]
