"""`sam2core track`: a video and prompts in; an overlay, mask files and COCO RLE out; it stops and goes on anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.engine import DetectorMaker, PredictorMaker, detector_options, engine_options, open_engine, placed
from sam2core.cli.options import (
    DEFAULT_MODEL,
    Box,
    Point,
    build_arguments,
    chosen_dtype,
    divided,
    model_flags,
    open_model,
)
from sam2core.cli.pictures import Kinds, label_writers, summarise
from sam2core.cli.progress import Bars, Say, listen
from sam2core.cli.prompts import PROMPTS, InOrder, OnFrame, spoken
from sam2core.jobs.clip import ClipRun, ClipSettings, open_run
from sam2core.jobs.folder import KINDS
from sam2core.jobs.inputs import clips
from sam2core.jobs.prompts import Prompts
from sam2core.jobs.writers import Labels

if TYPE_CHECKING:
    from sam2core.jobs.clips import Clip, ClipWork
    from sam2core.jobs.pictures import Made

PALETTES = ("bright", "davis", "colorblind", "pastel")


@click.command(cls=InOrder)
@click.argument("words", nargs=-1, metavar="[VIDEO...] [KEY=VALUE]...")
@click.option("--object", "objects", multiple=True, metavar="ID[:CLASS]",
              help="Prompts after it are for this object, until the next.  [default: 1]")  # fmt: skip
@click.option("-p", "--point", "points", multiple=True,
              type=OnFrame(Point(), "F:X,Y[,0|1]", "0:210,350 (inside) or 12:80,90,0 (outside)"),
              help="On frame F, a click on the object, or with ,0 beside it.")  # fmt: skip
@click.option("-b", "--box", "boxes", multiple=True, type=OnFrame(Box(), "F:X0,Y0,X1,Y1", "0:120,40,390,310"),
              help="On frame F, a box around the object.")  # fmt: skip
@click.option("--mask", "masks", multiple=True, type=OnFrame(None, "F:PNG", "0:dog.png"),
              help="On frame F, the object's mask: an image as large as the video, white inside.")  # fmt: skip
@click.option("--prompts", "prompts_file", type=click.Path(exists=True), metavar="FILE",
              help="Prompts as JSON, CSV or JSON lines, also of many videos.")  # fmt: skip
@click.option("--camera", metavar="N|URL", help="Instead of VIDEO: a camera by number or name, or a stream's address.")
@click.option("--start", type=click.IntRange(min=0), default=0, help="The first frame to see.  [default: 0]")
@click.option("--stop", type=click.IntRange(min=1), help="The first frame not to see.  [default: the end]")
@click.option("--stride", type=click.IntRange(min=1), default=1, help="See every N-th frame.  [default: 1]")
@click.option(
    "--crop", type=Box(), help="The part of the frames to look at: a small object is seen larger.  [default: all]"
)
@click.option("--direction", type=click.Choice(["forward", "backward", "both"]), default="forward", show_default=True,
              help="From the first prompted frame on; from the last one back; or both from the first.")  # fmt: skip
@click.option("--keep", type=click.Choice(["horizon", "all"]), default="horizon", show_default=True,
              help="Remember what can still be recalled, or everything.")  # fmt: skip
@click.option("--non-overlapping", is_flag=True, help="No pixel belongs to two objects.")
@click.option("--write", type=Kinds(KINDS), default="overlay,palette,rle", show_default=True,
              help=f"What to write: {', '.join(KINDS)}, and labels.")  # fmt: skip
@click.option("--palette", type=click.Choice(PALETTES), default="bright", show_default=True,
              help="The overlay's colours.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
              show_default=True, help="Folder to write to.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Resume a run that was stopped: the same command, and this.")
@click.option("--force", is_flag=True, help="Replace what an earlier run wrote to the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON summary on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@detector_options
@click.option("--every", type=click.IntRange(min=1), default=30, show_default=True,
              help="With --detector: look for new objects on every N-th frame.")  # fmt: skip
@click.option("--max-objects", type=click.IntRange(1, 255), default=64, show_default=True,
              help="With --detector: follow so many at most.")  # fmt: skip
@engine_options("Videos")
@model_flags
def command(words: tuple[str, ...], **options: Any) -> None:
    """Follow what you point at through a video.

    \b
    sam2core track clip.mp4 --point 0:300,130
    sam2core track clip.mp4 --object dog --point 0:300,130 --point 0:80,90,0 --object ball --box 12:10,20,60,70
    sam2core track frames/ --mask 0:dog.png --direction both --write palette,masks -o dog/
    sam2core track --camera 0 --box 0:200,100,440,380 --stop 500

    Several videos, or a pattern that matches several, are a run each in a folder of its name: OUT/NAME. The same
    prompts are for all of them, unless --prompts says of which `file` each is; --resume then begins those that were
    not begun. --detector NAME finds objects instead, on every N-th frame: one that is followed already (box IoU of
    0.5 or more) keeps its number, others join.

    VIDEO is a file, a folder of images, a quoted pattern such as 'frames/*.png', or an address.
    The order of prompts matters: each belongs to the --object before it, or to object 1. F is a
    frame's number in the video, from 0, whatever --start and --stride are; X and Y are its pixels.
    Points and a box on one frame describe the object together; a mask stands alone. A later frame's
    prompt corrects the object from there on.

    --prompts FILE says the same as JSON, frames and pixels as above; masks are paths from FILE's
    folder, or COCO RLE; what is missing may be left out, and options add to it:

    \b
    {"prompts": [{"object": "dog", "frame": 0, "points": [[300, 130], [80, 90]], "labels": [1, 0]},
                 {"object": "ball", "frame": 12, "box": [10, 20, 60, 70]},
                 {"object": "cat", "frame": 30, "mask": "cat.png"}]}

    Written to the folder, as --write says:

    \b
    overlay   overlay.mp4: masks, contours, ids and prompts over the video (needs sam2core[video])
    palette   palette/FRAME.png: DAVIS's format; a pixel is its object's number, 1 for the first named
    masks     masks/ID/FRAME.png: 255 inside, 0 outside
    rle       masks.json: per frame and object the mask as COCO RLE, IoU estimate, object score (> 0: seen)
    cutouts   cutouts/ID/FRAME.png: the object alone, transparent around it

    and labels for other tools in a folder each, whole when the run is complete: coco, yolo, labelstudio (an image a
    frame), cvat, davis, mots, nifti, tiff; classes are those of --object ID:CLASS and of the prompts' `category`.

    And run.json, which says how it went and can be given to --prompts. FRAME is the image's name,
    or the number of the frame.

    Ctrl-C and SIGTERM stop after the frame at hand, or in it after ten seconds (twice: at once), with
    exit code 130 and 143. What was written is valid and, with unfinished/, enough for --resume, which
    ends as if there had been no stop. Frames that cannot be read end the run with exit code 1; what
    came before them is kept in the same way.

    Live (--camera, or an address without an end) F counts the frames received, from the first on; q and
    Enter, Ctrl-C, --stop or the stream's end finish the run, which cannot be resumed.

    A trailing KEY=VALUE changes the model's spec, such as predictors.video.cleaning.fill_holes=0.
    """
    camera = options["camera"]
    named, options["overrides"] = divided(words, 1 if camera is None else 0)
    videos = clips(named)
    _check_usage(videos, options)
    if len(videos) > 1:
        _many(videos, options)
    else:
        _one(videos[0] if videos else "", options)


def _one(video: str, options: Mapping[str, Any]) -> None:
    """Follow what was pointed at in one video or a live source."""
    camera = options["camera"]
    changes = options["overrides"]
    prompts = Prompts()
    if options["prompts_file"] is not None:
        from sam2core.jobs.prompt_files import PromptFile

        prompts = PromptFile(options["prompts_file"]).prompts(Path(video))
    spoken(click.get_current_context().meta["sam2core.order"], {name: options[name] for name in PROMPTS}, prompts)

    say, folder = Say(options["quiet"]), options["output"]
    address = camera if camera is None or "://" in camera else f"camera:{camera}"
    source = address or video
    settings = _settings(source, options)
    earlier = open_run(folder, settings, prompts, resume=options["resume"], force=options["force"])
    if earlier is not None and earlier["status"] == "complete":
        say(f"{folder} is finished already")
        report(earlier, folder, options["as_json"])
        return
    if not prompts and not settings.detector:
        raise click.UsageError("say what to follow: --point F:X,Y, --box F:X0,Y0,X1,Y1, --mask F:PNG or --prompts FILE")
    if prompts and settings.detector:
        raise click.UsageError("--detector says what to follow: no --point, --box, --mask or --prompts beside it")
    run = _run(source, settings, prompts, folder, options, changes, say, earlier)
    end(run, options["as_json"], say)


def _settings(video: str, options: Mapping[str, Any]) -> ClipSettings:
    detector: dict[str, Any] = {}
    if options["detector"]:
        detector = {
            **DetectorMaker(options).document(),
            "every": options["every"],
            "max_objects": options["max_objects"],
        }
    words = ("start", "stop", "stride", "direction", "keep", "non_overlapping", "palette")
    return clip_settings(
        video,
        options,
        **{name: options[name] for name in words},
        crop=options["crop"] and list(options["crop"]),
        write=[*options["write"].drawn, *options["write"].labels],
        detector=detector,
    )


def _many(videos: Sequence[str], options: Mapping[str, Any]) -> None:
    """Follow what was pointed at in many videos, a run each; exit code 1 when some could not be done."""
    from sam2core.jobs.clips import Clip, ClipWork, folders
    from sam2core.jobs.prompt_files import PromptFile

    say, output = Say(options["quiet"]), placed(options["output"], options)
    order = click.get_current_context().meta["sam2core.order"]
    given = {name: options[name] for name in PROMPTS}
    paths = [placed(Path(video), options) for video in videos]
    said = {path: Prompts() for path in paths}
    if options["prompts_file"] is not None:
        said = PromptFile(options["prompts_file"]).of_all(paths)
    for prompts in said.values():
        spoken(order, given, prompts)
    if not options["detector"] and not any(said.values()):
        raise click.UsageError("say what to follow: --point F:X,Y, --box F:X0,Y0,X1,Y1, --prompts FILE or --detector")
    todo = [path for path in paths if said[path] or options["detector"]]
    for path in set(paths) - set(todo):
        say(f"{options['prompts_file']} says nothing of {path}: it is left out")
    places = dict(zip(paths, folders([str(path) for path in paths], output)))
    jobs = [Clip(str(path), places[path], _settings(str(path), options), said[path]) for path in todo]
    also: dict[str, Any] = {"non_overlapping": True} if options["non_overlapping"] else {}
    work = ClipWork(
        PredictorMaker(options, "video", **also),
        partial(label_writers, options["write"]),
        resume=options["resume"],
        force=options["force"],
        detect=DetectorMaker(options) if options["detector"] else None,
    )
    go_through_clips(jobs, work, options, say)


def go_through_clips(clips: Sequence[Clip], work: ClipWork, options: Mapping[str, Any], say: Say) -> None:
    """Do many videos, a run each, and tell of them; exit code 1 when some could not be done."""
    from sam2core.jobs.pictures import run_pictures

    engine = open_engine(options)
    open_model(options, options["overrides"], say)

    def told(made: Made, done: int) -> None:
        say(f"{done}/{len(clips)} {made.path}{' failed' if made.error else ''}")
        for note in made.notes:
            say(note)

    summarise(run_pictures(engine, work, clips, None, told), "videos", "objects", options, say)


def _check_usage(videos: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise click.UsageError for options that exclude each other."""
    if options["camera"] is None and not videos:
        raise click.UsageError("say what to follow in: VIDEO, or --camera N")
    if options["detect"] and not options["detector"]:
        raise click.UsageError("--detect is for a --detector")
    if options["detector"] and (options["direction"] != "forward" or options["camera"] is not None):
        raise click.UsageError("a detector is asked along a file, forward: no --direction or --camera with --detector")
    if options["camera"] is not None and options["resume"]:
        raise click.UsageError("what a camera saw is over: --resume is for files")
    if options["resume"] and options["force"]:
        raise click.UsageError("--resume goes on with what --force would delete: choose one")
    if options["stop"] is not None and options["stop"] <= options["start"]:
        raise click.UsageError(f"--stop {options['stop']} comes before the first frame: --start is {options['start']}")


def clip_settings(video: str, options: Mapping[str, Any], **more: Any) -> ClipSettings:
    """What a run over a video was asked for, in the words of the command line."""
    return ClipSettings(
        video=video if "://" in video or video.startswith("camera:") else os.path.abspath(video),
        model=options["model"] or DEFAULT_MODEL,
        overrides=list(options["overrides"]),
        weights=options["weights"],
        dtype=chosen_dtype(options),
        image_size=options["image_size"] and str(options["image_size"]),
        **more,
    )


def _run(
    video: str,
    settings: ClipSettings,
    prompts: Prompts,
    folder: Path,
    options: Mapping[str, Any],
    changes: tuple[str, ...],
    say: Say,
    earlier: Mapping[str, Any] | None,
) -> ClipRun:
    """Follow what was pointed at; what cannot be done is said before the model is built."""
    import registry
    from sam2core.media.frames import open_source
    from sam2core.media.render import folder_name

    for name in prompts.objects:
        folder_name(name)
    if "palette" in settings.write and len(prompts.objects) > 255:
        raise ValueError(f"palette files hold 255 objects, not {len(prompts.objects)}: --write masks or rle instead")
    labels = Labels(folder, label_writers(options["write"]), [folder.name], "videos", force=True)
    detector = DetectorMaker(options)() if settings.detector else None
    if "overlay" in settings.write:
        import av  # noqa: F401  what is missing is said before anything slow
    with open_source(video, start=settings.start, stop=settings.stop, stride=settings.stride) as source:
        if source.note is not None:
            say(source.note)
        for one in prompts.values():
            settings.stretch.check(one, source)
        if source.live and (options["resume"] or settings.direction != "forward"):
            raise ValueError("a live source goes forward only, once: no --direction, no --resume")
        if source.live and labels.writers:
            raise ValueError(f"what is live is not kept: --write {next(iter(labels.writers))} is for files")
        name = open_model(options, changes, say)
        also: dict[str, Any] = {"non_overlapping": True} if settings.non_overlapping else {}
        predictor = registry.predictor(name, "video", *changes, **build_arguments(options), **also)
        bars = Bars(say)
        run = ClipRun(
            folder,
            settings,
            prompts,
            source,
            predictor,
            say=say,
            progress=bars,
            labels=labels if labels.writers else None,
        )
        if detector is not None:
            known = (earlier or {}).get("categories", {})
            run.detected(detector, force=options["force"], resume=options["resume"], categories=known)
        elif source.live:
            run.live(force=options["force"], listen=listen)
        else:
            run.track(force=options["force"], resume=options["resume"])
        if run.status == "complete":
            bars.finish()
    return run


def end(run: ClipRun, as_json: bool, say: Say) -> None:
    """Tell how a run went, and end as it did: with an error, or with the exit code of an interruption."""
    report(run.document(), run.folder, as_json)
    if run.late:
        say(run.late, always=True)
    if run.status == "failed":
        raise ValueError(f"{run.error}; {run.kept}")
    if run.status == "interrupted":
        say(f"interrupted; {run.kept}", always=True)
        click.get_current_context().exit(run.code)


def report(document: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Print a run's summary on stdout: JSON for programs, a line per object and output for people."""
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    for one in document["objects"]:
        iou = "" if one["iou"] is None else f"  iou {one['iou']:.2f}"
        click.echo(f"object {one['id']}  present on {one['present']} of {one['frames']} frames{iou}")
    for place in document["files"].values():
        click.echo(str(folder / place) + ("" if "." in place else os.sep))
