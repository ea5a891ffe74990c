"""`sam2core evaluate vos`: segment a data set's videos, write the masks, score them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.engine import PredictorMaker, engine_options, is_here, open_engine
from sam2core.cli.evaluate.score import PROTOCOLS, report
from sam2core.cli.options import DEFAULT_MODEL, format_option, model_options

if TYPE_CHECKING:
    from sam2core.predictors.video import VideoPredictor


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where the masks go."
)
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="[default: sav for folders per object, else davis]")
@click.option("--prompt", type=click.Choice(["mask", "click", "box"]), default="mask", show_default=True)
@click.option(
    "--later/--first-only",
    default=None,
    help="Track objects that appear after the first frame too.  [default: for sav only]",
)
@click.option("--subset", metavar="NAME", help="The videos of ImageSets/**/NAME.txt, such as val.")
@format_option
@click.option("--video", "videos", multiple=True, metavar="NAME", help="Only this video; may be repeated.")
@engine_options("Videos")
@click.option("--resume", is_flag=True, help="Resume the run that OUT holds.")
@click.option("--force", is_flag=True, help="Replace the masks of an earlier run.")
@click.option("--score/--no-score", "scored", default=True, help="Score the masks when they are there.")
@model_options
def vos(root: Path, out: Path, protocol: str | None, scored: bool, **options: Any) -> None:
    """Segment every video of the data set ROOT from what is known of its first frame, and score the masks.

    ROOT holds videos in any format of docs/data.md: DAVIS, MOSE, YouTube-VOS, LVOS, SA-V and others.
    The masks go to OUT/VIDEO as the data set's own evaluator wants them, what made them to
    OUT/manifest.json. --resume resumes a run that was stopped. Without true masks beyond the
    first frame there is nothing to score.
    """
    from sam2core.data.footage import frame_count
    from sam2core.data.formats import open_clips
    from sam2core.evaluation.scoring import counted, tracks
    from sam2core.evaluation.vos import Task, Writers, made_with
    from sam2core.jobs.folder import try_folder
    from sam2core.jobs.manifest import Manifest, run

    if options["subset"] and options["videos"]:
        raise click.UsageError("--subset and --video exclude each other")
    if options["resume"] and options["force"]:
        raise click.UsageError("--resume goes on with what --force would delete: choose one")
    root = root.resolve()  # workers elsewhere do not start in this folder
    data = open_clips(root, options["format_name"], videos=options["videos"], subset=options["subset"])
    click.echo(data.sentence, err=True)
    videos = data.footage
    protocol = protocol or ("sav" if videos[0].overlapping else "davis")
    later = protocol == "sav" if options["later"] is None else options["later"]
    task = Task(options["prompt"], later=later, merged=protocol == "davis2016")
    engine = open_engine(options)
    try_folder(out)
    make = PredictorMaker(options, "video")
    predictor = make(0)
    made_by = made_with(predictor, str(options["model"] or DEFAULT_MODEL), task)
    manifest = Manifest(
        out, made_by, [video.name for video in videos], resume=options["resume"], force=options["force"]
    )
    here = is_here(options)
    waiting = manifest.waiting
    length = sum(frame_count(video) for video in videos if video.name in waiting) if here else len(waiting)
    with click.progressbar(
        length=length, label=f"{len(waiting)} of {len(videos)} videos", file=sys.stderr, item_show_func=_shown
    ) as bar:

        def told(name: str, done: int, total: int) -> None:
            bar.update(1, name)

        if here:
            writers = Writers(partial(_same, predictor), task, out.resolve(), told)
        else:
            del predictor
            writers = Writers(make, task, out.resolve())
        for name, _ in run(engine, writers, videos, manifest):
            if not here:
                bar.update(1, name)
    if not scored:
        return
    if not any(counted(frames) for video in videos for _, frames in tracks(video).values()):
        click.echo("not scored: there are no true masks beyond the first frames", err=True)
        return
    report(videos, out, protocol, out=out)


def _shown(name: str | None) -> str | None:
    return name


def _same(predictor: VideoPredictor, number: int) -> VideoPredictor:
    return predictor
