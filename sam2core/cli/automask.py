"""`sam2core automask`: everything in images, or followed through videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from sam2core.cli.engine import PredictorMaker, engine_options, placed
from sam2core.cli.options import build_arguments, chosen_dtype, divided, model_flags, open_model
from sam2core.cli.pictures import Kinds, bars_of, go_through, label_writers
from sam2core.cli.progress import Bars, Say
from sam2core.cli.track import clip_settings, end, go_through_clips, report
from sam2core.jobs import inputs
from sam2core.jobs.clip import ClipRun, ClipSettings, open_run
from sam2core.jobs.inputs import CLIPS
from sam2core.jobs.pictures import Picture
from sam2core.jobs.prompts import Prompts
from sam2core.jobs.writers import Labels

DRAWN_KINDS = ("overlay", "ids")
"""What is drawn of an image."""
FOLLOWED = ("overlay", "palette", "rle")
"""What is written of a video."""
OPTIONS = {
    "points": "points_per_side",
    "iou": "iou_threshold",
    "stability": "stability_threshold",
    "nms": "nms_threshold",
    "crops": "crop_layers",
    "min_area": "min_region_area",
}
"""Words of the command line -> options of MaskGenerator; those not given are the model's own."""


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="IMAGE|FOLDER|VIDEO... [KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
              show_default=True, help="Folder to write to.")  # fmt: skip
@click.option("--points", type=click.IntRange(min=1), help="Clicks along each side of the grid.  [default: 32]")
@click.option("--iou", type=click.FloatRange(0, 1), help="The model's estimate must be above it.  [default: 0.8]")
@click.option("--stability", type=click.FloatRange(0, 1), help="Keep masks at least so stable.  [default: 0.95]")
@click.option("--nms", type=click.FloatRange(0, 1), help="Box IoU above which two masks are one.  [default: 0.7]")
@click.option("--crops", type=click.IntRange(min=0), help="Layers of crops to look at as well.  [default: 0]")
@click.option("--min-area", type=click.IntRange(min=0), help="Remove holes and islands of fewer pixels.  [default: 0]")
@click.option("--refine", is_flag=True, help="Give every mask back to the model once more.")
@click.option("--tile", type=click.IntRange(min=64), help="Look at tiles of N pixels: for images of any size.")
@click.option("--overlap", type=click.IntRange(min=0), help="Pixels that tiles share.  [default: an eighth]")
@click.option("--every", type=click.IntRange(min=1), default=30, show_default=True,
              help="In a video, look for new objects on every N-th frame.")  # fmt: skip
@click.option("--max-objects", type=click.IntRange(1, 255), default=64, show_default=True,
              help="In a video, follow so many at most.")  # fmt: skip
@click.option("--frame", type=click.IntRange(min=0), help="Which image of a TIFF stack.  [default: 0]")
@click.option("--write", type=Kinds(DRAWN_KINDS), default="overlay,ids", show_default=True,
              help="What to write of images beside NAME.automask.json; labels as `segment` has them.")  # fmt: skip
@click.option("--resume", is_flag=True, help="In a video, resume a run that was stopped.")
@click.option("--force", is_flag=True, help="Do again what is done already, and replace what is of others.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@engine_options("Images")
@model_flags
def command(words: tuple[str, ...], output: Path, quiet: bool, **options: Any) -> None:
    """Cut out everything: all masks of an image, of a folder of images, or through a video.

    \b
    sam2core automask photo.jpg -o out/
    sam2core automask photos/ -o out/ --points 16 --crops 1
    sam2core automask scan.tif -o out/ --tile 1024        any size: read and looked at in tiles
    sam2core automask clip.mp4 -o out/ --every 30         found, followed, and looked for again
    sam2core automask 'videos/*.mp4' -o out/ --workers 2   each in a folder of its name

    Per image: NAME.automask.overlay.png, NAME.automask.ids.png (16 bits; a pixel's value is its
    mask's id, small masks above large ones, 0 where there is none), and NAME.automask.json: per mask
    the model's own estimate of the IoU, stability, area, bbox (x, y, width, height), the click and the
    mask as COCO RLE. The document comes last. What is whole and was made of the same image, with the
    same weights and options, is not made again, so a folder that was interrupted goes on; --force starts
    over. What is there of another image is replaced with --force alone, and what this command did not
    write never.

    Of a video the folder holds what `sam2core track` writes: overlay.mp4 (needs sam2core[video]),
    palette/FRAME.png with object numbers, masks.json and run.json; and it is stopped and resumed alike.
    Several videos are a run each, in a folder of its name.

    A trailing KEY=VALUE changes the model's spec, such as predictors.automask.nms_threshold=0.9.
    """
    sources, options["overrides"] = divided(words)
    say = Say(quiet)
    options["quiet"] = quiet
    also = {ours: options[word] for word, ours in OPTIONS.items() if options[word] is not None}
    if options["refine"]:
        also["refine"] = True
    paths = inputs.pictures(sources)
    clips = [path for path in paths if path.suffix.lower() in CLIPS]
    if clips and len(clips) < len(paths):
        still = next(path for path in paths if path not in clips)
        raise click.UsageError(f"{clips[0]} is a video and {still} an image: give them in two runs")
    if len(clips) == 1:
        _follow(str(clips[0]), output, options, options["overrides"], also, say)
    elif clips:
        _follow_many(clips, output, options, also, say)
    elif options["resume"]:
        raise click.UsageError("--resume is for a video; images that are done are not done again")
    else:
        _pictures(paths, output, options, also, say)


def _pictures(
    paths: Sequence[Path], output: Path, options: Mapping[str, Any], also: Mapping[str, Any], say: Say
) -> None:
    """Find the masks of images, and tell of each."""
    from sam2core.jobs.automask import AutomaskWork, check_targets

    output = placed(output, options)
    pictures = [Picture(placed(path, options), name) for path, name in inputs.named(paths)]
    check_targets(pictures, output)
    kinds = options["write"].drawn
    drawn = {} if kinds == DRAWN_KINDS else {"kinds": list(kinds)}
    bars = bars_of(options, len(pictures))
    words = ("tile", "overlap", "frame")
    work = AutomaskWork(
        PredictorMaker(options, "automask", **also),
        output,
        {
            "dtype": chosen_dtype(options),
            **{word: options[word] for word in words if options[word] is not None},
            **also,
            **drawn,
        },
        tile=options["tile"],
        overlap=options["overlap"],
        frame=options["frame"],
        force=options["force"],
        progress=None if bars is None else bars.begin,
        kinds=kinds,
    )
    open_model(options, options["overrides"], say)
    go_through(pictures, work, output, options, say, bars=bars)


def _settings(video: str, options: Mapping[str, Any], also: Mapping[str, Any]) -> ClipSettings:
    return clip_settings(
        video,
        options,
        write=[*FOLLOWED, *options["write"].labels],
        everything={"every": options["every"], "max_objects": options["max_objects"], **also},
    )


def _follow_many(
    paths: Sequence[Path], output: Path, options: Mapping[str, Any], also: Mapping[str, Any], say: Say
) -> None:
    """Find everything in many videos and follow it, a run each."""
    import av  # noqa: F401  what is missing is said before anything slow

    from sam2core.jobs.clips import Clip, ClipWork, folders

    videos = [str(placed(path, options)) for path in paths]
    places = folders(videos, placed(output, options))
    clips = [Clip(video, place, _settings(video, options, also)) for video, place in zip(videos, places)]
    work = ClipWork(
        PredictorMaker(options, "video"),
        partial(label_writers, options["write"]),
        resume=options["resume"],
        force=options["force"],
    )
    go_through_clips(clips, work, options, say)


def _follow(
    video: str, output: Path, options: Mapping[str, Any], changes: tuple[str, ...], also: Mapping[str, Any], say: Say
) -> None:
    """Find everything in a video and follow it."""
    import av  # noqa: F401  what is missing is said before anything slow

    import registry
    from sam2core.jobs.clips import generator
    from sam2core.media.frames import open_source

    settings = _settings(video, options, also)
    earlier = open_run(output, settings, Prompts(), resume=options["resume"], force=options["force"])
    if earlier is not None and earlier["status"] == "complete":
        say(f"{output} is finished already")
        report(earlier, output, options["as_json"])
        return
    labels = Labels(output, label_writers(options["write"]), [output.name], "videos", force=True)
    name = open_model(options, changes, say)
    with open_source(video) as source:
        tracker = registry.predictor(name, "video", *changes, **build_arguments(options))
        bars = Bars(say)
        run = ClipRun(
            output,
            settings,
            Prompts(),
            source,
            tracker,
            say=say,
            progress=bars,
            labels=labels if labels.writers else None,
        )
        run.everything(generator(tracker.model, settings), force=options["force"], resume=options["resume"])
        if run.status == "complete":
            bars.finish()
    end(run, options["as_json"], say)
