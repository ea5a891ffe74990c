"""`sam2core evaluate clicks`: a model and simple methods, on the same labelled images."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.engine import PredictorMaker, engine_options, open_engine
from sam2core.cli.options import DEFAULT_MODEL, format_option, model_options
from sam2core.cli.table import table

if TYPE_CHECKING:
    from sam2core.evaluation.clicks import Segmenter, Session

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
@engine_options("Images")
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
    from sam2core.data.formats import open_data
    from sam2core.evaluation.clicks import ClickWork, samples_of

    data = open_data(root, format_name, **({"split": split} if split else {}))
    click.echo(data.sentence, err=True)
    samples = list(samples_of(data, last=last, background=not foreground, seed=seed, most=objects, smallest=smallest))
    if not samples:
        raise ValueError(
            f"{root} holds no region of {100 * smallest:g} to 60 % of its image; --smallest takes smaller ones"
        )
    methods = Methods(options, (*(("disc", "flood") if baselines else ()), *dict.fromkeys(also)))
    done: dict[int, dict[str, list[Session]]] = {}
    with click.progressbar(length=len(samples), label="images", file=sys.stderr) as bar:
        for index, found in open_engine(options).map(ClickWork(methods, clicks), samples):
            if isinstance(found, ChildProcessError):
                raise ChildProcessError(f"{samples[index].name}: {found}")
            done[index] = found
            bar.update(1)
    results = {label: [done[index][label] for index in range(len(samples))] for label in done[0]}
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


class Methods:
    """Makes a worker's segmenters by name, the model's first; holds words alone, so that it can be sent anywhere."""

    def __init__(self, options: Mapping[str, Any], simple: Sequence[str]) -> None:
        self.name, self.simple = str(options["model"] or DEFAULT_MODEL), simple
        self.predictor = PredictorMaker(options, "image")

    def __call__(self, number: int) -> dict[str, Segmenter]:
        from sam2core.evaluation import baselines
        from sam2core.evaluation.clicks import PredictorSegmenter

        own = {self.name: PredictorSegmenter(self.predictor(number))}
        return own | {word: getattr(baselines, METHODS[word])() for word in self.simple}


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
